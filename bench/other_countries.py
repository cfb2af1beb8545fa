"""Facts to choose options on: those that a model knows of countries which the tables of docs/results.md do not edit.

    python -m bench.other_countries smollm2-135m choice.jsonl

The tables edit the first facts of geography that the model knows, of seeds 0 and 1; no country of the first 115 of
either is in the file. Hops, mentions and longer names are left out, since they cost time and choose nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from elder.datasets.load import load_edits
from elder.edit import Edit
from elder.geography.facts import atlas
from elder.metrics.known import known_facts
from elder.models.load import load_base

SEEDS = (0, 1)
TAKEN = 115  # known facts of a seed that a table may edit, and some to spare


def main() -> None:
    """Ask the model, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    base = load_base(given.model, chat="off")
    known = []
    for seed in SEEDS:
        edits = load_edits("geography", seed=seed)
        known.append([edits[index] for index in known_facts(base, edits, None, 16, 64).kept])
    found = untouched(known)
    with given.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(edit.to_dict(), ensure_ascii=False) + "\n" for edit in found)
    print(f"{len(found)} facts of {len({country(edit) for edit in found})} countries")


def untouched(streams: Sequence[Sequence[Edit]], taken: int = TAKEN) -> list[Edit]:
    """The edits about countries that the first `taken` of no stream are about; of one prompt the first edit."""
    tables = {country(edit) for stream in streams for edit in stream[:taken]}
    found: dict[str, Edit] = {}
    for edit in (edit for stream in streams for edit in stream if country(edit) not in tables):
        found.setdefault(edit.prompt, replace(edit, portability=(), mentions=(), extended_names=()))
    return list(found.values())


def country(edit: Edit) -> str:
    """The country that a fact is about, or in which its city lies."""
    world = atlas()
    for city in world.cities.values():
        if city.bare_name == edit.subject:
            return world.country_named(city.facts["country"][0]).bare_name
    return str(edit.subject)


if __name__ == "__main__":
    main()
