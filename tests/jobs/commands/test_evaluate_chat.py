"""`elder evaluate` of an adapter that was made through a chat template: it is measured so, whatever the config says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import elder as library
from elder.datasets import load_edits
from elder.edit import Edit
from elder.metrics.evaluator import Evaluator
from elder.metrics.known import known_facts
from tests.elder.chat_templates import TEMPLATES, chat_model, chat_tokenizer
from tests.jobs.conftest import Elder, records, write_jsonl

SYSTEM = "Be brief."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has a chat template, and an adapter that was made through it with a system message."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = chat_tokenizer(TEMPLATES["ChatML"])
    ends = [tokenizer.eos_token_id, *tokenizer("4a", add_special_tokens=False)["input_ids"]]  # it says them often
    chat_model(ends=ends).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    edits = load_edits("jsonl", write_jsonl(folder / "edits.jsonl", records(3)))
    base = library.load_base(str(folder / "model"), device="cpu", chat="on", system=SYSTEM)
    editor = library.make_editor("elder", base, batch_size=3, steps=4, layers=(2, 3), rank=2, experts=9)
    editor.edit(edits)
    editor.save(folder / "adapter")
    return folder


def measured(place: Path, chat: str, system: str | None) -> dict[str, Any]:
    """Reliability and locality, asked in one form by the library."""
    base = library.load_base(str(place / "model"), device="cpu")
    edited = library.load_edited(place / "adapter", base=base)
    form = library.load_base(str(place / "model"), device="cpu", chat=chat, system=system).texts
    edits = load_edits("jsonl", place / "edits.jsonl")
    report = Evaluator(edited, ("generate", "forced"), 6, 4, texts=form).measure(edits, ("reliability", "locality"))
    return {row["prompt"]: row["reliability.forced.nll"] for row in report.rows}


def words(place: Path) -> list[str]:
    return [
        f"model.source={place / 'model'}",
        "data.source=jsonl",
        f"data.path={place / 'edits.jsonl'}",
        "data.edits=null",
        "evaluation={protocols: [generate, forced], parts: [reliability, locality], max_new_tokens: 6, batch_size: 4}",
        "cluster.workers=0",
        "cluster.sharding=none",
    ]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("data.chat=off",), True),
        (("data.chat=on",), True),
        (("data.chat=on", "data.system=Be long."), True),
        (("data.chat=on", f"data.system={SYSTEM}"), False),
    ],
)
def test_it_is_measured_through_its_own_form(elder: Elder, place: Path, asked: tuple[str, ...], told: bool) -> None:
    own = measured(place, "on", SYSTEM)
    assert own != measured(place, "off", None)
    assert own != measured(place, "on", "Be long.")
    found = elder("evaluate", place / "adapter", "demo", *words(place), *asked, "--json", "e.json")
    assert found.code == 0, found.err
    result = json.loads(Path("e.json").read_text())
    assert {row["prompt"]: row["reliability.forced.nll"] for row in result["rows"]} == pytest.approx(own)
    assert result["adapter"]["chat"]["system"] == SYSTEM
    assert ("data.chat and data.system say otherwise" in found.out) is told


def test_known_facts_are_asked_in_that_form_too(elder: Elder, place: Path, tmp_path: Path) -> None:
    """The old answers are what the base says in the chat with the system message, and not without it."""
    own, other = (answers(place, system) for system in (SYSTEM, None))
    assert all(own)
    assert not any(there.startswith(here) for here, there in zip(own, other, strict=True))
    truths = [*own[:2], "never said"]
    rows = [{**row, "ground_truth": truth} for row, truth in zip(records(3), truths, strict=True)]
    path = write_jsonl(tmp_path / "known.jsonl", rows)
    asked = [*words(place), f"data.path={path}", "data.known=true", "data.chat=on"]
    found = elder("evaluate", place / "adapter", "demo", *asked, "--json", "e.json")
    assert found.code == 0, found.err
    measured = [row["prompt"] for row in json.loads(Path("e.json").read_text())["rows"]]
    assert measured == [row["prompt"] for row in rows[:2]]


def answers(place: Path, system: str | None) -> list[str]:
    """What the base says to the prompts."""
    base = library.load_base(str(place / "model"), device="cpu", chat="on", system=system)
    edits = [Edit(str(row["prompt"]), "x", ground_truth="never said") for row in records(3)]
    said = known_facts(base, edits, None, 6, 4).said
    return [said[index] for index in range(3)]
