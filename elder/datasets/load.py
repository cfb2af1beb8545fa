"""One door to every source of edits: files, generated worlds, our own table of places, hub datasets.

Knows the way from a name to records and from records to edits; the layouts know the fields.
"""

from __future__ import annotations

import difflib
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

from elder.datasets.catalogue import DATASETS, GEOGRAPHY, GEOGRAPHY_CHAT, LAYOUTS, LAYOUTS_OF, REPLACED
from elder.datasets.fields import LayoutOptions
from elder.datasets.hub import hub_records
from elder.datasets.reader import EditReader
from elder.datasets.records import Broken, Record, read_records
from elder.datasets.stream import UNUSABLE, EditStream, validate_stream
from elder.datasets.tables import COLUMNAR, DELIMITERS, ending_of, table_records
from elder.errors import DataError
from elder.paths import user_path

ORDERS = ("given", "shuffled")
TABLES = (*COLUMNAR, *DELIMITERS)


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
        path: The file (`.jsonl`, `.json`, `.csv`, `.tsv`, each may be `.gz`; `.parquet`, `.arrow`) of a named
            dataset, or the local copy of a hub dataset. The worlds and `geography` need none.
        limit: At most so many edits; a file is read no further than needed when the order is as given.
        order: `given`, or `shuffled` by the seed before the limit is applied.
        seed: Of the order; for a world and `geography` also of the choice of facts and their new answers.
        conflicts: `refuse` or `last_wins`: check the stream by `validate_stream` too. None: only the
            records themselves are checked, and the caller validates the stream later.
        split: Part of a hub dataset.
        locality_probes: At most so many locality probes an edit.
        target: zsRE and FEVER only: `alt` (counterfactual answer) or `answer` (true answer).
        max_words: SCOTUS only: words of an opinion that are kept.
        labels: SCOTUS only: names of labels that are numbers.
        unusable: `refuse`: a record that is no edit is an error; `skip`: it is left out and listed in `skipped`.

    Returns:
        A list of edits that remembers where each one stands in its file; its `reading` counts what was left out.

    Raises:
        DataError: With every problem found, each with its place.
        ModelError: An unknown world.
    """
    options = LayoutOptions(locality_probes, target, max_words, labels)
    problems = options.problems()
    if order not in ORDERS:
        problems.append(f"order must be one of {', '.join(ORDERS)}, found '{order}'")
    problems += _wrong_choices(limit, unusable)
    if problems:
        raise DataError(problems)
    reader = open_edits(source, path, limit if order == "given" else None, seed, split, options, unusable)
    placed = list(reader)
    reader.finish()
    edits = EditStream([one.edit for one in placed], [one.where for one in placed], reader.reading, reader.skipped)
    if order == "shuffled":
        chosen = list(range(len(edits)))
        random.Random(f"order {seed}").shuffle(chosen)
        edits = edits.take(chosen[:limit])
    return validate_stream(edits, conflicts) if conflicts is not None else edits


def open_edits(
    source: str | Path,
    path: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    split: str = "train",
    options: LayoutOptions | None = None,
    unusable: str = "refuse",
) -> EditReader:
    """The edits of a source in its own order, one by one: `load_edits` for a file that is larger than the memory.

    The reader's `problems` say what was wrong, when all edits have come, and its `reading` what was left out.

    Args:
        source: As for `load_edits`, and so the others.
        path: The file or directory.
        limit: At most so many edits.
        seed: Of the edits of a world or of `geography`.
        split: Part of a hub dataset.
        options: How records become edits.
        unusable: As for `load_edits`; the reader lists what it leaves out in `skipped`.

    Raises:
        DataError: There is no such source, or an option is wrong. That a file cannot be read, the reader says.
    """
    options = options or LayoutOptions()
    problems = options.problems() + _wrong_choices(limit, unusable)
    if problems:
        raise DataError(problems)
    records, layouts = _records(str(source), path, limit, seed, split)
    return EditReader(records, layouts, options, limit, unusable == "skip")


def _wrong_choices(limit: int | None, unusable: str) -> list[str]:
    problems = [] if limit is None or limit >= 0 else [f"limit must be 0 or more, found {limit}"]
    if unusable not in UNUSABLE:
        problems.append(f"unusable must be one of {', '.join(UNUSABLE)}, found '{unusable}'")
    return problems


def _records(
    source: str, path: str | Path | None, limit: int | None, seed: int, split: str
) -> tuple[Iterator[Record | Broken], tuple[str, ...]]:
    """The records of a source and the layouts that they may have."""
    if source in REPLACED and path is None:
        warnings.warn(f"the data set '{source}' was replaced by '{REPLACED[source]}'", FutureWarning, stacklevel=4)
        source = REPLACED[source]
    geography = source in (GEOGRAPHY, GEOGRAPHY_CHAT)
    if geography or source.startswith("world:"):
        if path is not None:
            made = "in the package" if geography else "generated"
            raise DataError(
                f"{source} is {made} and takes no path, found '{path}'; "
                "if the edits are in that file, name its layout as the source: data.source=jsonl"
            )
        return _own_records(source, limit, seed), ()
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


def _own_records(source: str, limit: int | None, seed: int) -> Iterator[Record]:
    """The edits of a dataset that needs no file."""
    if source in (GEOGRAPHY, GEOGRAPHY_CHAT):
        from elder.geography.chat import CHAT
        from elder.geography.edits import geography_edits
        from elder.geography.relations import PLAIN

        edits = geography_edits(limit, seed, PLAIN if source == GEOGRAPHY else CHAT)
    else:
        from elder.world.edits import world_edits

        edits = world_edits(source, limit, seed)
    for index, edit in enumerate(edits):
        yield Record(edit, f"{source} edit {index}")


def _is_path(source: str) -> bool:
    return ending_of(source) in (".jsonl", ".json", *TABLES) or user_path(source, DataError).is_file()


def _file_records(path: Path, split: str) -> Iterator[Record | Broken]:
    return table_records(path, split) if ending_of(path.name) in TABLES else read_records(path)
