"""Rows of tables, every cell as the text that it is: CSV and TSV by Python's reader, parquet and arrow by pyarrow.

No type is guessed, so `007`, `NA`, `null` and `1999-05-04` stay what they are; an empty cell is an absent field.
Class labels come as their names. Knows nothing of edits.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.datasets.records import Broken, Record, check_file, open_bytes, read_records
from elder.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COLUMNAR = (".parquet", ".arrow")
RECORDS = (".jsonl", ".json", ".ndjson")
KNOWN = (*DELIMITERS, *COLUMNAR, *RECORDS)
LONGEST_CELL = 1 << 24  # characters
ROWS = 500  # read at once
QUOTES = "a cell that begins with a quote must end with one, and quotes inside of it are doubled"


def ending_of(name: str) -> str:
    """The ending that tells the format of a file: `.csv` of `edits.csv.gz`."""
    return Path(name.removesuffix(".gz")).suffix.lower()


def table_records(path: Path, split: str = "train", delimiter: str | None = None) -> Iterator[Record | Broken]:
    """The rows of a `.csv`, `.tsv`, `.parquet` or `.arrow` file, the first two plain or gzipped.

    Args:
        path: The file.
        split: Part of the name of a place.
        delimiter: Between the cells of a CSV file, if it is not what the ending says.

    Raises:
        DataError: The file is not there, or cannot be read.
    """
    check_file(path)
    ending = ending_of(path.name)
    if ending in COLUMNAR:
        for index, row in enumerate(_columnar(path, ending, split)):
            yield Record(row, f"{path}[{split}] row {index}")
        return
    try:
        with open_bytes(path) as handle:
            yield from _csv_records(path, handle, delimiter or DELIMITERS.get(ending, ","))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def file_records(path: Path, split: str = "train", delimiter: str | None = None) -> Iterator[Record | Broken]:
    """The records of a data file of a dataset, by its ending.

    Raises:
        DataError: The file is not there, cannot be read, or has an unknown ending.
    """
    ending = ending_of(path.name)
    if ending in RECORDS:
        return read_records(path, lines=True)
    if ending not in KNOWN:
        raise DataError(f"{path}: unknown ending '{ending}', known: {', '.join(KNOWN)}")
    return table_records(path, split, delimiter)


def _csv_records(path: Path, handle: Any, delimiter: str) -> Iterator[Record | Broken]:
    """The rows below the header; a row is placed by the line on which it begins."""
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(_lines(path, handle), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line, index = 1, 0
    try:
        for cells in rows:
            where, line = f"{path}:{line}", rows.line_num + 1
            if header is None:
                header = _header(path, cells)
            elif cells:
                place = f"{where}, row {index}"
                index += 1
                if len(cells) == len(header):
                    yield Record({name: cell for name, cell in zip(header, cells, strict=True) if cell}, place)
                else:
                    yield Broken(f"{place}: {len(cells)} cells, but the header names {len(header)}")
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: cannot be read: {error}; {QUOTES}") from error


def _header(path: Path, cells: list[str]) -> list[str]:
    twice = sorted(name for name, count in Counter(cells).items() if count > 1)
    if twice:
        raise DataError(f"{path}:1: the header names columns twice: {', '.join(twice)}")
    return cells


def _lines(path: Path, handle: Any) -> Iterator[str]:
    for number, line in enumerate(handle, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8 text at byte {error.start + 1} of the line") from error


def _columnar(path: Path, ending: str, split: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{ending} files need the library 'pyarrow': pip install 'elder[data]'") from error
    try:
        with path.open("rb") as handle:
            if ending == ".parquet":
                table = parquet.ParquetFile(handle)
                yield from rows_of(table.schema_arrow, table.iter_batches(batch_size=ROWS))
                return
            try:
                batches = pyarrow.ipc.open_stream(handle)
            except pyarrow.ArrowInvalid:
                whole = pyarrow.ipc.open_file(handle)
                schema, batches = whole.schema, (whole.get_batch(index) for index in range(whole.num_record_batches))
            else:
                schema = batches.schema
            yield from rows_of(schema, batches)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        # dates beyond the year 9999, and damaged lengths that no memory holds, as well
        raise DataError(
            f"{path}: the dataset cannot be loaded (split '{split}'): {type(error).__name__}: {error}"
        ) from error


def rows_of(schema: Any, batches: Any) -> Iterator[dict[str, Any]]:
    """The rows of Arrow batches as they were in their source: tables fill absent fields with None, at every depth.

    Args:
        schema: The Arrow schema; the class labels that the datasets library writes into it become names.
        batches: Record batches or tables.

    Raises:
        ValueError: A batch is damaged, or has a value that Python does not know.
    """
    names = _class_labels(schema)
    coded = [field.name for field in schema if "extension<arrow.json>" in str(field.type)]
    for batch in batches:
        batch.validate(full=True)  # offsets that lead out of a damaged file would end the process
        for row in batch.to_pylist():
            for column in coded:
                row[column] = _decoded(row[column])
            yield clean(row, names)


def clean(row: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row without what is absent, numbers of class labels replaced by their names.

    Raises:
        ValueError: A class without a name.
    """
    dense = {
        column: _class(column, value, names[column])
        if column in names and isinstance(value, int) and value >= 0
        else _dense(value)
        for column, value in row.items()
    }
    return {column: value for column, value in dense.items() if value is not None}


def _class(column: str, number: int, names: Sequence[str]) -> str:
    if number >= len(names):
        raise ValueError(f"column '{column}': class {number}, but only {len(names)} have names")
    return names[number]


def _dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dense(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_dense(item) for item in value]
    return value


def _class_labels(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, of the columns that the datasets library marked so."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(kind["names"])
            for name, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _decoded(value: Any) -> Any:
    """A cell of the datasets library's JSON columns. It stores texts that look like JSON as they are, others quoted.

    So `007`, `null` and `1999` are texts; objects, lists and what is quoted are decoded.
    """
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, str) and value.lstrip().startswith(('"', "{", "[")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
