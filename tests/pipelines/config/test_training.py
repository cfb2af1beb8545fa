"""The config of a training, and the blocks that its facts are dealt into."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from elder.errors import ConfigError, DataError
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.run import load_config
from elder.pipelines.config.training import load_train_config, parse_train_config
from elder.pipelines.training.data import Blocks, read_training
from tests.pipelines.fakes import make_edits
from tests.pipelines.train_fakes import make_train_config, write_facts


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith("train/")])
def test_packaged_trainings_are_sound_and_survive_yaml(name: str) -> None:
    config = load_train_config(name)
    again = parse_train_config(config.dump_yaml())
    assert again == config
    assert again.digest() == config.digest()
    with pytest.raises(ConfigError, match="elder train-editor"):
        load_config(name)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_train_config(
            "training: {stepz: 3}\neditor: {method: malmen, rank: 0, meta: 1, seed: 3}\ngates: {EX: 1, ES: 2}\n"
            "validation: {edits: null}\ntracking: {mlflow: null, register: x}\n",
            "my.yaml",
        )
    text = "\n".join(error.value.problems)
    for part in (
        "my.yaml:1: training.stepz: unknown key; did you mean 'steps'",
        "editor.seed: is set by 'seed'",
        "'malmen' has no such option",
        "gates.EX: no such gate",
        "gates.ES: expected a share",
        "validation.edits: say how many",
        "tracking.register: needs tracking.mlflow",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="'elder-plus' is not trained"):
        parse_train_config("training: {}\neditor: {method: elder-plus}")
    with pytest.raises(ConfigError, match="nothing to train"):
        parse_train_config("name: x")


def test_what_does_not_change_the_editor_does_not_change_the_digest(tmp_path: Path) -> None:
    config = make_train_config(tmp_path)
    same = make_train_config(tmp_path, cluster={"workers": 2}, tracking={"store": "x"}, name="other")
    assert same.digest() == config.digest()
    assert make_train_config(tmp_path, validation={"edits": 6}).digest() != config.digest()
    assert make_train_config(tmp_path, seed=1).digest() != config.digest()


def test_an_epoch_has_every_fact_once_at_most_and_a_block_never_twice() -> None:
    facts = make_edits(11)
    blocks = Blocks(facts, 3, 8, seed=0)
    assert (len(blocks), blocks.per_epoch) == (24, 3)
    ids = [edit.id for edit in blocks[:]]
    for epoch in range(2):
        assert len(set(ids[epoch * 9 : epoch * 9 + 9])) == 9
    assert ids[:9] != ids[9:18]
    assert [edit.id for edit in Blocks(facts, 3, 8, seed=0)[10:14]] == ids[10:14]  # a place says it all
    assert [edit.id for edit in Blocks(facts, 3, 8, seed=1)[:]] != ids
    assert [edit.id for edit in pickle.loads(pickle.dumps(blocks))[:]] == ids
    with pytest.raises(IndexError):
        blocks[24]
    with pytest.raises(ConfigError, match="a block of 12 facts is more than the 11"):
        Blocks(facts, 12, 1, seed=0)


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_a_borrowed_prompt_is_never_one_of_the_block(tmp_path: Path, size: int) -> None:
    from elder.datasets import load_edits

    facts = load_edits("jsonl", path=write_facts(tmp_path / "f.jsonl", 11, probes=False))
    blocks = Blocks(facts, size, 12, seed=3)
    for first in range(0, len(blocks), size):
        block = blocks[first : first + size]
        lent = [edit.locality[0].prompt for edit in block]
        assert not {edit.prompt for edit in block} & set(lent)
    answers = {edit.prompt: edit.target for edit in facts}
    assert all(probe.answer == answers[probe.prompt] for edit in blocks[:] for probe in edit.locality)


def test_validation_is_held_out_and_skipped_facts_are_left_alone(tmp_path: Path) -> None:
    config = make_train_config(tmp_path, data={"skip": 4})
    data = read_training(config)
    trained, measured = {edit.prompt for edit in data.blocks.facts}, [edit.prompt for edit in data.validation]
    assert measured == [f"The colour of thing {i} is" for i in range(18, 23)]
    assert trained == {f"The colour of thing {i} is" for i in range(4, 18)}
    assert read_training(make_train_config(tmp_path)).digest != data.digest


def test_facts_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be held out of 23"):
        read_training(make_train_config(tmp_path, validation={"edits": 23}))
    own = write_facts(tmp_path / "own.jsonl", 3)
    again = {"source": "jsonl", "path": str(own), "edits": None}
    with pytest.raises(DataError, match=r"own.jsonl:1: .* is among the training facts"):
        read_training(make_train_config(tmp_path, validation=again))
    facts = tmp_path / "facts.jsonl"
    facts.write_text(facts.read_text().replace('"rephrases": ["Thing 7 has the colour"], ', ""), encoding="utf-8")
    with pytest.raises(DataError, match="rephrase"):
        read_training(make_train_config(tmp_path))
