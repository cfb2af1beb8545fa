"""The house is a set of rooms: each imports only what the table says, and no two files import each other."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.architecture.rooms import MAY_IMPORT, room_of, table
from tests.architecture.sources import ROOT, home_of, imports, modules


def arrows() -> dict[Path, set[Path]]:
    """Which file imports which others of the house: at its top, inside a function or for type checkers."""
    homes = {path: {home_of(found.name) for found in imports(path, typing=True)} for path in modules()}
    return {path: {home for home in found if home is not None and home != path} for path, found in homes.items()}


ARROWS = arrows()


def room_arrows() -> dict[tuple[str, str], str]:
    """Pairs of rooms with one import that makes the first need the second."""
    found = {}
    for path, others in ARROWS.items():
        for other in others:
            if other != Path("elder/__init__.py") and room_of(path) != room_of(other):
                found[room_of(path), room_of(other)] = f"{path} imports {other}"
    return found


def test_every_file_is_in_a_room_of_the_table() -> None:
    assert {room_of(path) for path in modules() if path.name != "__init__.py"} == set(MAY_IMPORT) - {"infra/aws"}


def test_rooms_import_what_the_table_says_and_nothing_else() -> None:
    wrong = [why for (room, other), why in room_arrows().items() if other not in MAY_IMPORT.get(room, ())]
    assert wrong == []


def test_the_table_says_nothing_that_is_not_so() -> None:
    found = set(room_arrows())
    said = {(room, other) for room, names in MAY_IMPORT.items() for other in names}
    assert said - found == set()


def test_no_files_import_each_other() -> None:
    try:
        TopologicalSorter(ARROWS).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(map(str, circle.args[1])))


def test_no_rooms_import_each_other() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def test_the_page_for_contributors_shows_the_table() -> None:
    """`python -m tests.architecture.rooms` prints it."""
    assert table() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
