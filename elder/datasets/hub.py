"""Datasets of the Hugging Face hub, and local copies of them.

The only file of elder that imports `datasets`, and only when it is called. The library finds and fetches the files;
they are read by `tables`, for the library's own readers change texts: they guess the types of columns. Knows nothing
of edits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from elder.datasets.records import Broken, Record
from elder.datasets.tables import KNOWN, ROWS, clean, ending_of, file_records, rows_of
from elder.errors import DataError

READ_HERE = ("csv", "json", "parquet", "arrow")  # the library's names of formats that `tables` reads
PART = re.compile(r"(?P<split>[^\[\]]+)(?:\[(?P<begin>\d*):(?P<end>\d*)\])?")


def hub_records(name: str, path: str | Path | None = None, split: str = "train") -> Iterator[Record | Broken]:
    """The rows of a dataset. Class labels come as their names; empty fields are left out.

    Args:
        name: A dataset on the hub, with `NAME:CONFIG` for one of its configurations; ignored with a path.
        path: A local directory (saved by the datasets library, or of data files) or data file instead.
        split: Which part; of a dataset of files also some of its rows, such as `train[:100]`.

    Raises:
        DataError: The library is not installed, or the dataset or the part cannot be had.
    """
    if path is not None and Path(path).is_file():
        return file_records(Path(path), split)
    return _dataset(name, None if path is None else Path(path), split)


def _dataset(name: str, path: Path | None, split: str) -> Iterator[Record | Broken]:
    try:
        import datasets
    except ImportError as error:
        raise DataError("hub datasets need the library 'datasets': pip install 'elder[data]'") from error
    label = str(path) if path is not None else name
    try:
        for index, row in enumerate(_rows(datasets, name, path, split)):
            where = f"{label}[{split}] row {index}"
            yield Broken(f"{where}: {row.problem}") if isinstance(row, Broken) else Record(row, where)
    except DataError:
        raise
    except Exception as error:  # the library raises a dozen unrelated classes for the same mishaps
        raise DataError(
            f"{label}: the dataset cannot be loaded (split '{split}'): {type(error).__name__}: {error}"
        ) from error


def _rows(datasets: Any, name: str, path: Path | None, split: str) -> Iterator[Any]:
    """The rows, some of them broken."""
    if path is not None and not path.exists():
        raise FileNotFoundError(f"no such file or directory: {path}")
    if path is not None and ((path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()):
        saved = datasets.load_from_disk(str(path))
        table = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return rows_of(table.features.arrow_schema, table.with_format("arrow").iter(batch_size=ROWS))
    repository, _, config = (str(path), "", "") if path is not None else name.partition(":")
    builder = datasets.load_dataset_builder(repository, config or None)
    files = builder.config.data_files
    if builder.name not in READ_HERE or not files or getattr(builder.config, "field", None):
        table = datasets.load_dataset(repository, config or None, split=split)
        names = _class_labels(datasets, table.features)
        return (clean(row, names) for row in table)
    return _file_rows(datasets, builder, files, split)


def _file_rows(datasets: Any, builder: Any, files: Any, split: str) -> Iterator[Any]:
    """The rows of the data files of a split, one file after the other."""
    part = PART.fullmatch(split)
    if part is None or part["split"] not in files:
        known = ", ".join(map(str, files))
        raise ValueError(f"unknown split, known: {known}, with or without rows such as train[:100]")
    addresses = list(files[part["split"]])
    config = datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    download = datasets.DownloadManager(
        dataset_name=builder.dataset_name, base_path=builder.base_path, download_config=config
    )
    names = _class_labels(datasets, builder.info.features or {})
    delimiter = getattr(builder.config, "sep", None) if builder.name == "csv" else None

    def rows() -> Iterator[Any]:
        for address in addresses:
            for record in _one_file(download, address, split, delimiter):
                if isinstance(record, Broken):
                    yield record
                else:
                    yield clean(record.value, names) if isinstance(record.value, dict) else record.value

    return islice(rows(), int(part["begin"] or 0), int(part["end"]) if part["end"] else None)


def _one_file(download: Any, address: str, split: str, delimiter: str | None) -> Iterator[Record | Broken]:
    """The records of a file, fetched when its turn comes."""
    if ending_of(address) not in KNOWN:
        raise DataError(f"{address}: files of this ending are not read; unpack it, known: {', '.join(KNOWN)}")
    return file_records(Path(download.download(address)), split, delimiter)


def _class_labels(datasets: Any, features: Any) -> dict[str, list[str]]:
    return {column: kind.names for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
