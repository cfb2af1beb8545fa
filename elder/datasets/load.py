"""One door to every source of edits: files, generated worlds, hub datasets.

Knows the way from a name to records and from records to edits; the layouts know the fields.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from elder.datasets.catalogue import DATASETS, LAYOUTS, LAYOUTS_OF
from elder.datasets.fields import LayoutOptions
from elder.datasets.hub import hub_records
from elder.datasets.records import Broken, Record, capped, read_records
from elder.datasets.stream import UNUSABLE, EditStream, validate_stream
from elder.edit import Edit
from elder.errors import DataError

ORDERS = ("given", "shuffled")
TABLES = (".parquet", ".arrow", ".csv", ".tsv")


def load_edits(
    source: str | Path,
    path: str | Path | None = None,
    limit: int | None = None,
    order: str = "given",
    seed: int = 0,
    *,
    conflicts: str | None = None,
    split: str = "train",
    locality_probes: int | None = 10,
    target: str = "alt",
    max_words: int = 300,
    labels: tuple[str, ...] = (),
    unusable: str = "refuse",
) -> EditStream:
    """Edits from a named dataset, a file or the hub.

    Args:
        source: A name of `DATASETS`, `hub:NAME`, or the path of a file (its layout is found by its fields).
        path: The file (`.jsonl`, `.json`, either may be `.gz`; `.parquet`, `.csv`) of a named dataset, or the
            local copy of a hub dataset. The worlds need none.
        limit: At most so many edits; a file is read no further than needed when the order is as given.
        order: `given`, or `shuffled` by the seed before the limit is applied.
        seed: Of the order; for a world also of the choice of facts and their new answers.
        conflicts: `refuse` or `last_wins`: check the stream by `validate_stream` too. None: only the
            records themselves are checked, and the caller validates the stream later.
        split: Part of a hub dataset.
        locality_probes: At most so many locality probes an edit.
        target: zsRE and FEVER only: `alt` (counterfactual answer) or `answer` (true answer).
        max_words: SCOTUS only: words of an opinion that are kept.
        labels: SCOTUS only: names of labels that are numbers.
        unusable: `refuse`: a record that is no edit is an error; `skip`: it is left out and listed in `skipped`.

    Returns:
        A list of edits that remembers where each one stands in its file.

    Raises:
        DataError: With every problem found, each with its place.
        ModelError: An unknown world.
    """
    options = LayoutOptions(locality_probes, target, max_words, labels)
    problems = options.problems()
    if order not in ORDERS:
        problems.append(f"order must be one of {', '.join(ORDERS)}, found '{order}'")
    if limit is not None and limit < 0:
        problems.append(f"limit must be 0 or more, found {limit}")
    if unusable not in UNUSABLE:
        problems.append(f"unusable must be one of {', '.join(UNUSABLE)}, found '{unusable}'")
    if problems:
        raise DataError(problems)
    cut = limit if order == "given" else None
    edits = _collect(str(source), path, cut, seed, split, options, unusable == "skip")
    if order == "shuffled":
        chosen = list(range(len(edits)))
        random.Random(f"order {seed}").shuffle(chosen)
        edits = edits.take(chosen[:limit])
    return validate_stream(edits, conflicts) if conflicts is not None else edits


def _collect(
    source: str, path: str | Path | None, limit: int | None, seed: int, split: str, options: LayoutOptions, skip: bool
) -> EditStream:
    """The first `limit` edits of a source, in its own order."""
    if source.startswith("world:"):
        from elder.world.edits import world_edits

        if path is not None:
            raise DataError(f"{source} is generated and takes no path, found '{path}'")
        edits = world_edits(source, limit, seed)
        return EditStream(edits, [f"{source} edit {index}" for index in range(len(edits))])
    records, layouts = _records(source, path, split)
    return _build(records, layouts, limit, options, skip)


def _records(source: str, path: str | Path | None, split: str) -> tuple[Iterator[Record | Broken], tuple[str, ...]]:
    """The records of a source and the layouts that they may have."""
    if source.startswith("hub:"):
        return hub_records(source.removeprefix("hub:"), path, split), tuple(LAYOUTS)
    if source in LAYOUTS_OF:
        if path is None:
            raise DataError(f"the dataset '{source}' is read from a file: give its path (data.path, or path=...)")
        return _file_records(Path(path), split), LAYOUTS_OF[source]
    if path is None and _is_path(source):
        return _file_records(Path(source), split), tuple(LAYOUTS)
    near = difflib.get_close_matches(source, DATASETS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(DATASETS)}, hub:NAME, or the path of a file"
    raise DataError(f"there is no dataset '{source}'; {hint}")


def _is_path(source: str) -> bool:
    return source.removesuffix(".gz").endswith((".jsonl", ".json", *TABLES)) or Path(source).is_file()


def _file_records(path: Path, split: str) -> Iterator[Record | Broken]:
    return hub_records(path.name, path, split) if path.suffix in TABLES else read_records(path)


def _build(
    records: Iterator[Record | Broken], layouts: tuple[str, ...], limit: int | None, options: LayoutOptions, skip: bool
) -> EditStream:
    """Edits of records; every problem of every record that was read is collected before it is raised or told."""
    edits: list[Edit] = []
    places: list[str] = []
    problems: list[str] = []
    wrong = 0
    while limit is None or len(edits) + (0 if skip else wrong) < limit:
        record = next(records, None)
        if record is None:
            break
        if isinstance(record, Broken):
            problems.append(record.problem)
            wrong += 1
            continue
        try:
            edit = _edit(record, layouts, options)
            if edit is not None:
                edits.append(edit)
                places.append(record.where)
        except DataError as error:
            wrong += 1
            problems += [f"{record.where}: {problem.removeprefix(': ')}" for problem in error.problems]
    if problems and not (skip and edits):
        raise DataError(capped(problems))
    return EditStream(edits, places, problems)


def _edit(record: Record, layouts: tuple[str, ...], options: LayoutOptions) -> Edit | None:
    """The edit of one record in the first layout whose fields it has; None when the record holds none.

    Raises:
        DataError: The record has the fields of no layout, or its fields are wrong.
    """
    if not isinstance(record.value, Mapping):
        raise DataError(f"expected a JSON object, found {type(record.value).__name__}")
    modules: dict[str, Any] = {name: import_module(LAYOUTS[name]) for name in layouts}
    for module in modules.values():
        if record.value.keys() >= module.FIELDS:
            edit: Edit | None = module.build(record.value, options)
            return edit
    if len(modules) == 1:  # let the only layout say which field is missing
        only: Edit | None = next(iter(modules.values())).build(record.value, options)
        return only
    expected = "; ".join(f"{name}: {', '.join(sorted(module.FIELDS))}" for name, module in modules.items())
    raise DataError(
        f"the fields ({', '.join(sorted(map(str, record.value)))}) fit no known layout; expected at least ({expected})"
    )
