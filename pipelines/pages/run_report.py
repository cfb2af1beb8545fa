"""The report of a run: from the result of `edit` and its rows to report.md, report.html, results.jsonl.

Pure functions on plain dicts, but for `write_report`, which writes files into a given directory. Knows nothing of
stores, trackers or the command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.metrics.retention import retention_summary
from elder.pipelines.pages.page import write_page
from elder.pipelines.pages.plots import edits_applied, retention_map, scope_over_edits, scores_over_edits, training_loss

PROTOCOLS = {
    "generate": "greedy free generation up to the natural stop (end token or newline); the whole answer must equal "
    "the target after normalisation; locality: the answer equals the unedited model's token for token",
    "forced": "teacher forcing; every target token must be the most likely one; locality: the most likely token is "
    "unchanged all along the unedited model's own answer",
}
PLAIN = {f"{name}.plain": f"{name}, with prompts as plain texts, without the chat template" for name in PROTOCOLS}
QUANTITIES = {
    "reliability": "the edited prompts themselves",
    "generalization": "rephrases that training never saw",
    "locality": "unrelated prompts, agreement with the unedited model",
    "locality_answer": "unrelated prompts, against the answer the data set gives",
    "portability": "prompts whose answer follows from the new fact",
    "locality.same_subject": "other questions about the subject, agreement with the unedited model",
    "locality.mention": "questions about others after a mention of the subject, agreement with the unedited model",
    "locality.name": "longer names that hold the subject's, agreement with the unedited model",
    "alias": "the edited prompts under other names of the subject",
    "stale": "corrected facts that still get a superseded answer; 0 is right",
}
STAGE_METRICS = [f"{q}.{p}" for q in ("reliability", "generalization", "locality") for p in (*PROTOCOLS, *PLAIN)]
MERITS = [f"{q}.{p}" for q in ("reliability", "generalization") for p in PROTOCOLS]
CELL = 120  # characters of a text in a table
MATRIX = 20  # stages of a retention matrix that are printed in full

Row = Mapping[str, Any]


def run_context(
    result: Mapping[str, Any],
    rows: Sequence[Row] = (),
    *,
    title: str = "",
    examples: Sequence[Row] = (),
    references: Sequence[Mapping[str, Any]] = (),
    losses: Sequence[Sequence[float]] = (),
    config: str = "",
    retention_of: str = "",
) -> dict[str, Any]:
    """The context of `templates/run.jinja`.

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
    stages, final, matrix = result["stages"], result["final"], result["retention"]
    retention_of = retention_of or next((name for name in MERITS[: len(PROTOCOLS)] if name in final), "reliability")
    applied = edits_applied(stages)
    stage_metrics = _measured(STAGE_METRICS, [stage.get("metrics") or {} for stage in stages])
    worst = worst_rows(rows)
    worst_metrics = _measured(MERITS, worst)
    return {
        "title": title or f"Edit run {result['run_id']}",
        "config": config,
        "result": result,
        "rows": rows,
        "edits": applied[-1] if applied else 0,
        **_final(final),
        "stage_metrics": stage_metrics,
        "stages": [
            (stage["stage"], edits, bool(stage["committed"]), *_figures(stage.get("metrics") or {}, stage_metrics),
             str(stage["state_digest"])[:12])
            for stage, edits in zip(stages, applied, strict=True)
        ],
        "retention_of": retention_of,
        "retention": matrix,
        "longest_matrix": MATRIX,
        "triangle": [(i, *row[: i + 1], *[None] * (len(matrix) - i - 1)) for i, row in enumerate(matrix)],
        "last_row": list(enumerate(matrix[-1])) if matrix else [],
        "summary": retention_summary(matrix),
        "examples": [[_text(row.get(name)) for name in ("prompt", "target", "before", "after")] for row in examples],
        "worst_metrics": worst_metrics,
        "worst": [
            (str(row["edit_id"]),
             *(_text(row.get(name)) for name in ("prompt", "target", "reliability.generate.text")),
             *_figures(row, worst_metrics))
            for row in worst
        ],
        "skipped": [[line] for line in result.get("skipped", ())],
        "known": result.get("known"),
        "unknown": [[line] for line in result.get("unknown", ())],
        "references": [_reference(one) for one in references],
        "pictures": {
            "scores.png": scores_over_edits(stages),
            "scope.png": scope_over_edits(stages),
            "retention.png": retention_map(matrix, retention_of),
            "loss.png": training_loss(losses),
        },
    }  # fmt: skip


def write_report(
    directory: str | Path, result: Mapping[str, Any], rows: Sequence[Row] = (), **parts: Any
) -> list[Path]:
    """Write report.md, report.html (self-contained), results.jsonl and plots/ into a directory.

    Args:
        directory: Made if absent; files of these names are replaced.
        result: As in `run_context`, like `parts`, which are its other arguments.
        rows: One line each in results.jsonl; without rows there is no such file.

    Returns:
        The files written.
    """
    root = Path(directory)
    files = write_page(root, "run", run_context(result, rows, **parts))
    if rows:
        (root / "results.jsonl").write_text(results_lines(rows), encoding="utf-8")
        files.append("results.jsonl")
    return [root / name for name in files]


def results_lines(rows: Sequence[Row]) -> str:
    """The rows as JSON lines; numbers that JSON does not know become null."""
    return "".join(json.dumps(_clean(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def worst_rows(rows: Sequence[Row], count: int = 10) -> list[Row]:
    """Rows with a failure in reliability or generalization, lowest mean first."""
    judged = [(_merit(row), row) for row in rows]
    failed = [(merit, row) for merit, row in judged if merit is not None and merit < 1.0]
    return [row for _, row in sorted(failed, key=lambda pair: pair[0])[:count]]


def _final(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Quantities down, protocols across; whatever else was measured; what the names mean."""
    every = PROTOCOLS | PLAIN
    protocols = {p: meaning for p, meaning in every.items() if any(name.endswith(f".{p}") for name in metrics)}
    grid = [(q, [metrics.get(f"{q}.{p}") for p in protocols], asked_on) for q, asked_on in QUANTITIES.items()]
    known = {f"{q}.{p}" for q in QUANTITIES for p in protocols}
    known |= {name for name in metrics if name.startswith("retention.")}  # these have a section
    return {
        "protocols": protocols,
        "scores": [(q, *values, asked_on) for q, values, asked_on in grid if values.count(None) < len(values)],
        "others": [(name, float(value)) for name, value in sorted(metrics.items()) if name not in known],
    }


def _measured(names: Iterable[str], tables: Sequence[Row]) -> list[str]:
    """The names that any table has a figure for."""
    return [name for name in names if any(table.get(name) is not None for table in tables)]


def _figures(table: Row, names: Iterable[str]) -> list[Any]:
    return [table.get(name) for name in names]


def _reference(reference: Mapping[str, Any]) -> tuple[str, list[str], list[list[Any]]]:
    """Source, columns and rows of published numbers: they are quoted, not measured here."""
    names = list(dict.fromkeys(name for row in reference["rows"] for name in row if name != "method"))
    source = " · ".join(filter(None, (reference["source"], reference.get("setting"))))
    return source, ["method", *names], [[str(row["method"]), *_figures(row, names)] for row in reference["rows"]]


def _merit(row: Row) -> float | None:
    values = [float(row[name]) for name in MERITS if row.get(name) is not None]
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
