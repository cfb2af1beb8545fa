"""Two thousand mutated inputs: each is taken or refused with a sentence, in time, and nothing is written before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutate import Untouched
from tests.fuzz.run import KINDS, run_kind, shares

INPUTS = 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_taken_or_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    count = shares(INPUTS)[kind]
    found = run_kind(kind, range(count), tmp_path / "input")
    assert found.wrong == {}, next(iter(found.wrong.values()))
    assert found.refused > count // 10, "the mutations are too mild"


@pytest.mark.parametrize("kind", KINDS)
def test_without_mutations_it_is_taken(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        KINDS[kind](Untouched(number), folder)()


def test_the_shares_add_up() -> None:
    counts = shares(INPUTS)
    assert sum(counts.values()) == INPUTS
    assert min(counts.values()) >= 20
