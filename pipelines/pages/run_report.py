"""The report of a run: from the result of `edit` and its per-edit rows to report.md, report.html, results.jsonl.

Pure functions on plain dicts, but for `write_report`, which writes files into a given directory. Knows
nothing of stores, trackers or the command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.metrics.retention import retention_summary
from elder.pipelines.pages.page import Block, Code, Heading, Picture, Table, Text, to_html, to_markdown
from elder.pipelines.pages.plots import edits_applied, retention_map, scope_over_edits, scores_over_edits, training_loss

PROTOCOLS = {
    "generate": "greedy free generation up to the natural stop (end token or newline); the whole answer must equal "
    "the target after normalisation; locality: the answer equals the unedited model's token for token",
    "forced": "teacher forcing; every target token must be the most likely one; locality: the most likely token is "
    "unchanged all along the unedited model's own answer",
}
QUANTITIES = {
    "reliability": "the edited prompts themselves",
    "generalization": "rephrases that training never saw",
    "locality": "unrelated prompts, agreement with the unedited model",
    "locality_answer": "unrelated prompts, against the answer the data set gives",
    "portability": "prompts whose answer follows from the new fact",
}
STAGE_METRICS = ("reliability", "generalization", "locality")
CELL = 120  # characters of a text in a table
MATRIX = 20  # stages of a retention matrix that are printed in full

Row = Mapping[str, Any]


def report_blocks(
    result: Mapping[str, Any],
    rows: Sequence[Row] = (),
    *,
    title: str = "",
    examples: Sequence[Row] = (),
    references: Sequence[Mapping[str, Any]] = (),
    losses: Sequence[Sequence[float]] = (),
    config: str = "",
    retention_of: str = "",
) -> list[Block]:
    """The page of a run.

    Args:
        result: The result of `edit` (docs: the JSON result).
        rows: One for each edit, as `elder.metrics.report.EvaluationReport.rows`.
        title: Name of the run; its id by default.
        examples: Rows with `prompt`, `target`, `before`, `after`.
        references: Published numbers to be quoted, each `{"source", "setting"?, "rows": [{"method", name: number}]}`.
            They get a table of their own.
        losses: Training losses, `(batches, steps)`, all stages one after another.
        config: The resolved config as YAML.
        retention_of: Name of the metric in the retention matrix; by default reliability under the first
            protocol of `PROTOCOLS` that was measured.
    """
    blocks: list[Block] = [Heading(title or f"Edit run {result['run_id']}", 1), _identity(result)]
    blocks += [Heading("After the last stage"), *_final(result["final"])]
    blocks += [Heading("Stages"), _stage_table(result["stages"])]
    blocks += _pictures(
        ("scores.png", scores_over_edits(result["stages"]), "Scores after every stage, by edits applied"),
        ("scope.png", scope_over_edits(result["stages"]), "Share of inputs inside the deferral scope"),
    )
    blocks += _retention(result["retention"], retention_of or _reliability(result["final"]))
    blocks += _pictures(("loss.png", training_loss(losses), "Training loss of every batch"))
    blocks += _examples(examples) + _worst(rows) + _skipped(result.get("skipped", ()))
    blocks += [Heading("Time"), Table(("what", "value"), [(name, float(v)) for name, v in result["timing"].items()])]
    blocks += _references(references)
    if config:
        blocks += [Heading("Config"), Code(config, "yaml")]
    return blocks


def write_report(
    directory: str | Path, result: Mapping[str, Any], rows: Sequence[Row] = (), *, title: str = "", **parts: Any
) -> list[Path]:
    """Write report.md, report.html (self-contained), results.jsonl and plots/ into a directory.

    Args:
        directory: Made if absent; files of these names are replaced.
        result: As in `report_blocks`, like `rows`, `title` and `parts`.
        rows: One line each in results.jsonl; without rows there is no such file.
        title: Name of the run.
        parts: `examples`, `references`, `losses`, `config`, `retention_of`.

    Returns:
        The files written.
    """
    blocks = report_blocks(result, rows, title=title, **parts)
    root = Path(directory)
    files: dict[Path, bytes] = {
        root / "report.md": to_markdown(blocks).encode(),
        root / "report.html": to_html(blocks, title or f"Edit run {result['run_id']}").encode(),
    }
    if rows:
        files[root / "results.jsonl"] = results_lines(rows).encode()
    files |= {root / "plots" / block.name: block.png for block in blocks if isinstance(block, Picture)}
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return list(files)


def results_lines(rows: Sequence[Row]) -> str:
    """The rows as JSON lines; numbers that JSON does not know become null."""
    return "".join(json.dumps(_clean(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def worst_rows(rows: Sequence[Row], count: int = 10) -> list[Row]:
    """Rows with a failure in reliability or generalization, lowest mean first."""
    judged = [(_merit(row), row) for row in rows]
    failed = [(merit, row) for merit, row in judged if merit is not None and merit < 1.0]
    return [row for _, row in sorted(failed, key=lambda pair: pair[0])[:count]]


def _identity(result: Mapping[str, Any]) -> Table:
    adapter, registered = result["adapter"], result.get("registered")
    applied = edits_applied(result["stages"])
    facts = [
        ("run", result["run_id"]),
        ("config digest", result["config_digest"]),
        ("base model", result["base_model"]["id"]),
        ("base digest", result["base_model"]["digest"]),
        ("edits", str(applied[-1] if applied else 0)),
        ("adapter", adapter["uri"]),
        ("adapter digest", adapter["digest"]),
        ("adapter size", f"{adapter['bytes'] / 2**20:.2f} MiB"),
        ("registered as", f"models:/{registered['name']}/{registered['version']}" if registered else None),
    ]
    return Table(("", ""), [fact for fact in facts if fact[1] is not None])


def _final(metrics: Mapping[str, float]) -> list[Block]:
    """Quantities down, protocols across; then whatever else was measured, then what the names mean."""
    protocols = [p for p in PROTOCOLS if any(name.endswith(f".{p}") for name in metrics)]
    grid = [(q, *(metrics.get(f"{q}.{p}") for p in protocols), meaning) for q, meaning in QUANTITIES.items()]
    known = {f"{q}.{p}" for q in QUANTITIES for p in protocols}
    known |= {name for name in metrics if name.startswith("retention.")}  # has a section of its own
    others = [(name, float(value)) for name, value in sorted(metrics.items()) if name not in known]
    shown = [row for row in grid if any(value is not None for value in row[1:-1])]
    blocks: list[Block] = []
    if shown:
        blocks.append(Table(("quantity", *protocols, "asked on"), shown))
    if others:
        blocks.append(Table(("other figures", "value"), others))
    blocks += [Text(f"{protocol}: {PROTOCOLS[protocol]}.") for protocol in protocols]
    return blocks


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    names = [
        name
        for quantity in STAGE_METRICS
        for protocol in PROTOCOLS
        if any((name := f"{quantity}.{protocol}") in (stage.get("metrics") or {}) for stage in stages)
    ]
    rows = [
        (
            stage["stage"],
            applied,
            "yes" if stage["committed"] else "no",
            *((stage.get("metrics") or {}).get(name) for name in names),
            str(stage["state_digest"])[:12],
        )
        for stage, applied in zip(stages, edits_applied(stages), strict=True)
    ]
    return Table(("stage", "edits applied", "committed", *names, "state"), rows)


def _reliability(final: Mapping[str, float]) -> str:
    return next((name for p in PROTOCOLS if (name := f"reliability.{p}") in final), "reliability")


def _retention(matrix: Sequence[Sequence[float]], name: str) -> list[Block]:
    if not matrix:
        return []
    legend = f"Row: measured after that stage. Column: the edits of that stage. Value: {name}."
    blocks: list[Block] = [Heading("Retention"), Text(legend)]
    size = len(matrix)
    if size <= MATRIX:
        rows = [(i, *(row[j] if j <= i else None for j in range(size))) for i, row in enumerate(matrix)]
        blocks.append(Table(("after stage", *(str(j) for j in range(size))), rows))
    else:
        blocks.append(Text(f"{size} stages: the matrix is in the picture, its last row here."))
        blocks.append(Table(("edits of stage", name), list(enumerate(matrix[-1]))))
    summary = retention_summary(matrix)
    blocks.append(Table(("summary", "value"), list(summary.items())))
    return blocks + _pictures(("retention.png", retention_map(matrix, name), f"Retention matrix of {name}"))


def _skipped(skipped: Sequence[str]) -> list[Block]:
    if not skipped:
        return []
    told = Text(f"{len(skipped)} records of the data cannot be edited (`data.unusable: skip`).")
    return [Heading("Left out"), told, Table(("record",), [(line,) for line in skipped])]


def _examples(examples: Sequence[Row]) -> list[Block]:
    if not examples:
        return []
    rows = [tuple(_text(row.get(name)) for name in ("prompt", "target", "before", "after")) for row in examples]
    return [Heading("Before and after"), Table(("prompt", "asked for", "before", "after"), rows)]


def _worst(rows: Sequence[Row]) -> list[Block]:
    worst = worst_rows(rows)
    if not rows:
        return []
    if not worst:
        return [Heading("Worst edits"), Text(f"None of the {len(rows)} edits failed in anything that was measured.")]
    names = [f"{q}.{p}" for q in ("reliability", "generalization") for p in PROTOCOLS]
    shown = [name for name in names if any(row.get(name) is not None for row in worst)]
    cells = [
        (
            str(row["edit_id"]),
            _text(row.get("prompt")),
            _text(row.get("target")),
            _text(row.get("reliability.generate.text")),
            *(row.get(name) for name in shown),
        )
        for row in worst
    ]
    return [Heading("Worst edits"), Table(("edit", "prompt", "asked for", "said", *shown), cells)]


def _references(references: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Published numbers, each table under its source: they are quoted, not measured here."""
    if not references:
        return []
    blocks: list[Block] = [
        Heading("Published numbers"),
        Text("Quoted from the sources named; not measured here, and under protocols that may differ from ours."),
    ]
    for reference in references:
        names = list(dict.fromkeys(name for row in reference["rows"] for name in row if name != "method"))
        table = [(str(row["method"]), *(row.get(name) for name in names)) for row in reference["rows"]]
        blocks += [Text(" · ".join(filter(None, (reference["source"], reference.get("setting")))))]
        blocks += [Table(("method", *names), table)]
    return blocks


def _pictures(*named: tuple[str, bytes | None, str]) -> list[Block]:
    return [Picture(name, png, caption) for name, png, caption in named if png is not None]


def _merit(row: Row) -> float | None:
    names = [f"{q}.{p}" for q in ("reliability", "generalization") for p in PROTOCOLS]
    values = [float(row[name]) for name in names if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def _text(value: Any) -> str | None:
    """A text for a table cell: the end of a long prompt matters more than its beginning."""
    if value is None:
        return None
    folded = " ".join(str(value).split())
    return folded if len(folded) <= CELL else "…" + folded[-CELL:]


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
