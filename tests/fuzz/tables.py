"""Tables of edits: CSV and TSV with odd cells, quotes and rows; Parquet and Arrow with odd values, types and bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from elder.datasets import load_edits, validate_stream
from elder.edit import dataset_digest
from tests.fuzz.edit_files import OWN, RECORDS
from tests.fuzz.judge import Case
from tests.fuzz.mutate import ODD_TEXTS, Untouched, mutated_bytes, mutated_value

FLAT = [
    {name: value for name, value in OWN.items() if isinstance(value, str)},
    {"id": "e2", "prompt": "The mayor of Brend is", "target": "Ula"},
]
NESTED = [[dict(record) for record in RECORDS[layout]] for layout in ("jsonl", "zsre", "knowedit", "hallucination")]
CELLS = (
    '"', '""', '"a', 'a"b', "a,b", "a\tb", "a\nb", "a\r", "\x00", "=1+1", "'", "\ufeff", "é" * 40, ",", '","', "\\N",
)  # fmt: skip
TYPED = (
    0, -1, 2**62, 1.5, float("nan"), True, b"\xff\x00", date(1999, 5, 4), datetime(1999, 5, 4, 12), Decimal("1.10"),
    datetime(9999, 12, 31), [1], [[]], {"a": 1}, [{"a": b"x"}], None,
)  # fmt: skip


def _text_case(ending: str, delimiter: str) -> Case:
    def make(rng: Random, folder: Path) -> Callable[[], object]:
        content = _text_table(rng, delimiter).encode("utf-8", errors="surrogatepass")
        content = mutated_bytes(rng, content) if rng.random() < 0.5 else content
        packed = rng.random() < 0.15
        if packed:
            content = gzip.compress(content, 1)
            content = mutated_bytes(rng, content) if rng.random() < 0.5 else content
        return _written(rng, folder / f"edits{ending}{'.gz' if packed else ''}", content)

    return make


def _text_table(rng: Random, delimiter: str) -> str:
    """The rows as a table, some with cells too many, too few or odd, some without quotes where they are needed."""
    header = list(dict.fromkeys(name for row in FLAT for name in row))
    rows = [header, *([row.get(name, "") for name in header] for row in FLAT)]
    if not isinstance(rng, Untouched):
        for _ in range(rng.choice((0, 1, 2, 4))):
            row, odd = rng.choice(rows), rng.choice((*CELLS, *ODD_TEXTS))
            at = rng.randrange(len(row) + 1)
            row[at : at + rng.randrange(2)] = [odd] * rng.choice((0, 1, 1, 1, 2, 200))
    if rng.random() < 0.2 and not isinstance(rng, Untouched):
        return "\n".join(delimiter.join(row) for row in rows)
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator=rng.choice(("\n", "\r\n"))).writerows(rows)
    return written.getvalue()


def _columnar_case(ending: str) -> Case:
    def make(rng: Random, folder: Path) -> Callable[[], object]:
        rows = [mutated_value(rng, row) for row in rng.choice([FLAT, *NESTED])]
        rows = [row for row in rows if isinstance(row, dict)] or [dict(FLAT[0])]
        if rng.random() < 0.4 and not isinstance(rng, Untouched):
            value = rng.choice(TYPED)
            for row in rows:
                row[rng.choice(("target", "id", "subject", "extra"))] = value
        content = _columnar(rng, rows, ending)
        content = mutated_bytes(rng, content) if rng.random() < 0.5 else content
        return _written(rng, folder / f"edits{ending}", content)

    return make


def _columnar(rng: Random, rows: Sequence[Mapping[str, Any]], ending: str) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    table = pyarrow.table({name.encode(errors="replace").decode(): column for name, column in columns.items()})
    if rng.random() < 0.2 and not isinstance(rng, Untouched):
        classes = {name: {"names": ["a"], "_type": "ClassLabel"} for name in (*names, "label")}
        said = rng.choice(
            (json.dumps({"info": {"features": classes}}), "[", '{"info": []}', '{"info": {"features": 1}}')
        )
        table = table.replace_schema_metadata({"huggingface": said})
    sink = io.BytesIO()
    if ending == ".parquet":
        parquet.write_table(table, sink, compression=rng.choice(("none", "snappy", "gzip")))
    else:
        opened = rng.choice((pyarrow.ipc.new_stream, pyarrow.ipc.new_file))
        with opened(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _column(values: Sequence[Any]) -> Any:
    """An Arrow column of the values, or of their JSON where no type holds all of them."""
    import pyarrow

    try:
        column = pyarrow.array(values)
        if "struct<>" not in str(column.type):  # of which Parquet has none
            return column
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
        pass
    return pyarrow.array([None if value is None else json.dumps(value, default=str) for value in values])


def _written(rng: Random, path: Path, content: bytes) -> Callable[[], object]:
    path.write_bytes(content)
    policy = rng.choice(("refuse", "last_wins"))

    def call() -> object:
        stream = validate_stream(load_edits(str(path)), policy)
        return dataset_digest(stream), [edit.training_prompts + edit.heldout_rephrases for edit in stream]

    return call


TABLES: Mapping[str, Case] = {
    "edits-csv": _text_case(".csv", ","),
    "edits-tsv": _text_case(".tsv", "\t"),
    "edits-parquet": _columnar_case(".parquet"),
    "edits-arrow": _columnar_case(".arrow"),
}
