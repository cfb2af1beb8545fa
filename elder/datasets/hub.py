"""Reads records with the `datasets` library: from the hub, a saved dataset, or parquet, arrow and csv files.

The only file of elder that imports `datasets`, and only when it is called. Knows nothing of edits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elder.datasets.records import Record
from elder.errors import DataError

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
"""Ending of a local file -> the builder of the datasets library that reads it."""


def hub_records(name: str, path: str | Path | None = None, split: str = "train") -> Iterator[Record]:
    """The rows of a dataset. Class labels come as their names; empty fields are left out.

    Args:
        name: A dataset on the hub, with `NAME:CONFIG` for one of its configurations; ignored with a path.
        path: A local directory (saved by the datasets library, or of data files) or data file instead.
        split: Which part.

    Raises:
        DataError: The library is not installed, or the dataset or the part cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("hub datasets need the library 'datasets': pip install 'elder[data]'") from error
    label = str(path) if path is not None else name
    try:
        table = _load(datasets, name, None if path is None else Path(path), split)
    except Exception as error:  # the library raises a dozen unrelated classes for the same mishaps
        raise DataError(
            f"{label}: the dataset cannot be loaded (split '{split}'): {type(error).__name__}: {error}"
        ) from error
    names = {column: kind.names for column, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    for index, row in enumerate(table):
        yield Record(_clean(row, names), f"{label}[{split}] row {index}")


def _load(datasets: Any, name: str, path: Path | None, split: str) -> Any:
    if path is None:
        repository, _, config = name.partition(":")
        return datasets.load_dataset(repository, config or None, split=split)
    if not path.exists():
        raise FileNotFoundError(f"no such file or directory: {path}")
    if path.is_file():
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        builder = BUILDERS.get(plain.suffix)
        if builder is None:
            raise ValueError(f"unknown ending '{plain.suffix}', known: {', '.join(BUILDERS)}")
        extra = {"sep": "\t"} if plain.suffix == ".tsv" else {}
        return datasets.load_dataset(builder, data_files={split: str(path)}, split=split, **extra)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(str(path))
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    return datasets.load_dataset(str(path), split=split)


def _clean(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A row as it stood in its source: tables fill absent fields with None, at every depth."""
    cleaned = {
        column: names[column][value] if column in names and isinstance(value, int) and value >= 0 else _dense(value)
        for column, value in row.items()
    }
    return {column: value for column, value in cleaned.items() if value is not None}


def _dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dense(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_dense(item) for item in value]
    return value
