"""Trained worlds on disk: made once, whole or not at all, and never when they know too little."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from elder.errors import ModelError
from elder.world import cache
from elder.world.cache import ensure_world
from elder.world.edits import world_edits
from elder.world.facts import make_world, named_world
from tests.elder.world.micro import MICRO


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """`micro` is a known world in this test."""
    monkeypatch.setattr(cache, "find_recipe", lambda name: MICRO)


@pytest.fixture(scope="module")
def tiny() -> Path:
    """The world `tiny`, trained as a user would on first use; once in a session (see `tests/conftest.py`)."""
    return ensure_world("tiny", os.environ["ELDER_HOME"])


@pytest.fixture(scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_tiny_knows_its_facts_under_free_generation(tiny: Path) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny),
        AutoTokenizer.from_pretrained(tiny, padding_side="left"),
    )
    pairs = [pair for trained in (True, False) for pair in named_world("tiny").prompts(trained)[::9]]
    batch = tokenizer([prompt for prompt, _ in pairs], return_tensors="pt", padding=True)
    made = model.eval().generate(**batch, max_new_tokens=12, do_sample=False)[:, batch["input_ids"].shape[1] :]
    said = tokenizer.batch_decode(made, skip_special_tokens=True)
    right = sum(text == f" {answer}." for text, (_, answer) in zip(said, pairs, strict=True))
    assert right / len(pairs) > 0.97
    assert (made == tokenizer.eos_token_id).any(1).float().mean() > 0.97, "statements end by themselves"


@pytest.mark.usefixtures("threads")
def test_tiny_answers_the_prompts_of_its_edits_with_the_old_answer(tiny: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny).eval(), AutoTokenizer.from_pretrained(tiny)
    edits = world_edits("tiny", 20)
    right = 0
    for edit in edits:
        ids = tokenizer(edit.prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        right += tokenizer.decode(made, skip_special_tokens=True) == f" {edit.ground_truth}."
    assert right >= 19


def test_tiny_is_saved_with_what_was_measured(tiny: Path) -> None:
    measured = json.loads((tiny / "world.json").read_text())
    assert measured["accuracy"]["heldout"] >= 0.97
    assert measured["accuracy"]["trained"] >= 0.99
    assert 300_000 < measured["parameters"] < 500_000
    config = json.loads((tiny / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"]


@pytest.mark.usefixtures("micro")
def test_a_world_is_trained_once_and_then_found(tmp_path: Path) -> None:
    calls: list[int] = []
    first = ensure_world("micro", tmp_path, lambda done, of, loss: calls.append(of))
    assert calls == [len(calls)] * len(calls)
    assert calls
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    count = len(calls)
    assert ensure_world("world:micro", tmp_path, lambda done, of, loss: calls.append(of)) == first
    assert len(calls) == count
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in first.parent.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.usefixtures("micro")
def test_two_that_want_the_same_world_train_it_once(tmp_path: Path) -> None:
    steps: list[int] = []
    found: list[Path] = []
    threads = [
        Thread(target=lambda: found.append(ensure_world("micro", tmp_path, lambda done, of, loss: steps.append(of))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(steps) == steps[0]


@pytest.mark.usefixtures("micro")
def test_a_damaged_or_abandoned_directory_is_made_anew(tmp_path: Path) -> None:
    home = ensure_world("micro", tmp_path)
    (home / "model.safetensors").unlink()
    abandoned = home.parent / f"{home.name}.killed.tmp"
    abandoned.mkdir()
    assert ensure_world("micro", tmp_path) == home
    assert (home / "model.safetensors").is_file()
    assert not abandoned.exists()


@pytest.mark.usefixtures("micro")
def test_an_interrupted_training_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, of: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_world("micro", tmp_path, interrupt)
    assert [path.suffix for path in (tmp_path / "worlds").iterdir()] == [".lock"]


def test_a_model_that_knows_too_little_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(MICRO, training=replace(MICRO.training, accuracy=0.99))
    monkeypatch.setattr(cache, "find_recipe", lambda name: strict)
    with pytest.raises(ModelError, match=r"answers only 0\.\d+ of the held-out wordings, 0.990 are needed"):
        ensure_world("micro", tmp_path)
    assert [path.suffix for path in (tmp_path / "worlds").iterdir()] == [".lock"]


@pytest.mark.usefixtures("micro")
def test_a_cache_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be kept under"):
        ensure_world("micro", tmp_path / "file")


@pytest.mark.usefixtures("micro")
def test_a_disk_that_is_full_is_said_plainly_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(model: PreTrainedModel, directory: Path, **how: Any) -> None:
        Path(directory, "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", no_room)
    with pytest.raises(ModelError, match=r"No space left on device.*free some space there"):
        ensure_world("micro", tmp_path)
    assert [path.suffix for path in (tmp_path / "worlds").iterdir()] == [".lock"]


def test_the_directory_is_named_by_everything_that_matters() -> None:
    world = make_world(MICRO.size)
    digest = cache.world_digest(MICRO, world)
    assert digest == cache.world_digest(MICRO, make_world(MICRO.size))
    other = replace(MICRO, training=replace(MICRO.training, lr=1e-3))
    assert cache.world_digest(other, world) != digest
    assert cache.world_digest(MICRO, make_world(replace(MICRO.size, seed=4))) != digest


def test_an_unknown_world_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'world:tiny'"):
        ensure_world("tinny", tmp_path)
    assert os.listdir(tmp_path) == []
