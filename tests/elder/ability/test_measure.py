"""Scores of models whose answers are known beforehand, the unedited model's memory, ranks, and progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elder.ability.files import read_tasks
from elder.ability.item import Item
from elder.ability.measure import AbilityMeter, ask
from elder.ability.tasks import NAMES, TASKS
from elder.metrics.batching import ProgressMeter
from elder.metrics.completions import Completer
from tests.elder.ability.tiny_tasks import PROSE, edited, parrot, told, write_files

QUESTIONS = tuple(name for name in NAMES if name != "wikitext")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Item, ...]]:
    return read_tasks(write_files(tmp_path_factory.mktemp("tasks")), NAMES)


@pytest.mark.parametrize("name", QUESTIONS)
def test_who_is_right_gets_all_and_who_is_wrong_nothing(name: str, tasks: dict[str, tuple[Item, ...]]) -> None:
    items = tasks[name]
    right, wrong = parrot(told(items, right=True)), parrot(told(items, right=False))
    found = AbilityMeter(edited(wrong, right), {name: items}, batch_size=3).measure()
    assert set(found) == set(TASKS[name].figures)
    for row in found.values():
        assert (row["n"], row["before"]["value"], row["after"]["value"]) == (len(items), 0.0, 1.0)
        assert row["difference"]["value"] == 1.0
    back = AbilityMeter(edited(right, wrong), {name: items}, batch_size=1).measure()
    assert [row["difference"]["value"] for row in back.values()] == [-1.0] * len(back)


def test_a_text_known_by_heart_has_perplexity_one_and_an_unknown_one_that_of_a_guess() -> None:
    items = {"wikitext": (Item(PROSE), Item(PROSE[300:]))}
    row = AbilityMeter(edited(parrot([]), parrot([PROSE])), items, batch_size=2).measure()["wikitext"]
    assert row["before"]["value"] == pytest.approx(259)
    assert row["after"]["value"] == pytest.approx(1, abs=1e-3)
    assert row["difference"]["method"] == "paired bootstrap"


def test_a_model_that_says_something_else_is_right_by_likelihood_and_not_by_what_it_says() -> None:
    item = Item("Q: is it?", (" yes",), (" no", " yes"))
    model = parrot(["Q: is it? well", "Q: is it? yes"])  # the first text is found first, but ' y' has more than ' n'
    scores = ask(Completer(model, 4), TASKS["boolq"], [item], ProgressMeter(1))
    assert (scores["boolq"].value, scores["boolq.said"].value) == (1.0, 0.0)


def test_the_unedited_model_is_asked_once_for_all_processes(
    tasks: dict[str, tuple[Item, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: tasks[name] for name in ("gsm8k", "rte", "wikitext")}
    every = [text for name in ("gsm8k", "rte") for text in told(some[name], right=True)]
    editor = edited(parrot([*every, PROSE]), parrot([]))
    asked: list[Any] = []

    def counted(completer: Completer, task: Any, *rest: Any) -> Any:
        asked.append((task.name, completer.routed_at is None))
        return ask(completer, task, *rest)

    monkeypatch.setattr("elder.ability.measure.ask", counted)
    meter = AbilityMeter(editor, some, 4, tmp_path)
    first = meter.measure()
    assert sorted(asked) == sorted((name, base) for name in some for base in (True, False))
    asked.clear()
    assert meter.measure() == first
    assert AbilityMeter(editor, some, 4, tmp_path).measure() == first
    assert not any(base for _, base in asked)
    others = {"gsm8k": (*some["gsm8k"][1:], Item("Q: another", ("7",)))}
    AbilityMeter(editor, others, 4, tmp_path).measure()
    assert ("gsm8k", True) in asked  # other items are other scores


def test_a_damaged_memory_is_asked_for_again(tasks: dict[str, tuple[Item, ...]], tmp_path: Path) -> None:
    some = {"sst2": tasks["sst2"]}
    editor = edited(parrot(told(some["sst2"], right=True)), parrot([]))
    first = AbilityMeter(editor, some, 4, tmp_path).measure()
    (kept,) = (tmp_path / "ability").glob("*.json")
    for broken in ("", "[]", '{"sst2": {}}'):
        kept.write_text(broken)
        assert AbilityMeter(editor, some, 4, tmp_path).measure() == first


def test_progress_counts_both_models_and_ends_at_the_total(tasks: dict[str, tuple[Item, ...]]) -> None:
    some = {name: tasks[name] for name in ("gsm8k", "conll03")}
    meter, steps = AbilityMeter(edited(parrot([]), parrot([])), some, 2), []
    meter.measure(lambda done, of: steps.append((done, of)))
    total = 2 * sum(map(len, some.values()))
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    steps.clear()
    meter.measure(lambda done, of: steps.append((done, of)))
    assert steps[-1] == (total // 2, total // 2)


def test_metrics_of_a_stage_name_both_sides(tasks: dict[str, tuple[Item, ...]]) -> None:
    some = {"rte": tasks["rte"]}
    right, wrong = (parrot(told(some["rte"], right=is_right)) for is_right in (True, False))
    assert AbilityMeter(edited(right, wrong), some, 2).figures() == {
        "ability.rte": 0.0, "ability.rte.said": 0.0, "ability_base.rte": 1.0, "ability_base.rte.said": 1.0,
    }  # fmt: skip
