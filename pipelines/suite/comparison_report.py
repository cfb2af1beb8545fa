"""The report of a comparison: report.md, report.html, compare.csv and plots, below a given directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.metrics.figures import NEAR_LOCALITY
from elder.pipelines.pages.axes import COLOURS, Series, describe, draw_bars, legend, line_plot, numbered, to_png
from elder.pipelines.pages.page import Table, write_csv, write_page
from elder.pipelines.pages.plots import edits_applied
from elder.pipelines.suite.comparison_result import RETENTION, costs, flat_rows, same_moment, shown_metrics

SHARES = [
    f"{quantity}.{protocol}"
    for quantity in ("reliability", "generalization", "locality", *NEAR_LOCALITY.values())
    for protocol in ("generate", "forced")
]
SCORES = ["counterfact.ES", "counterfact.PS", "counterfact.NS", "counterfact.S"]

Figures = Mapping[str, Mapping[str, float]]
"""Method -> metric -> figure."""


def write_compare_report(directory: Path, result: Mapping[str, Any], config: str) -> list[str]:
    """Write the report; returns names of the files below the directory."""
    files = write_page(directory, "comparison", compare_context(result, config))
    write_csv(directory / "compare.csv", *flat_rows(result))
    return [*files, "compare.csv"]


def compare_context(result: Mapping[str, Any], config: str = "") -> dict[str, Any]:
    """The context of `templates/comparison.jinja`."""
    methods, after, early = result["methods"], result["right_after"], result["right_after_means"]
    final = {} if same_moment(result) else {name: one["final"] for name, one in methods.items()}
    late = "after the whole stream"
    return {
        "title": f"Comparison {result['compare_id']}",
        "config": config,
        "result": result,
        "failed": [(name, result["status"][name], error) for name, error in result["failed"].items()],
        "right_after": _table(after),
        "final": final and _table(final),
        "retention": final and _table(final, RETENTION),
        "costs": [(name, *costs(one)) for name, one in methods.items()],
        "pictures": {
            "right_after.png": metric_bars(after, SHARES, f"Measured {early}"),
            "right_after_counterfact.png": metric_bars(after, SCORES, f"Measured {early}"),
            "final.png": metric_bars(final, SHARES, f"Measured {late}"),
            "final_counterfact.png": metric_bars(final, SCORES, f"Measured {late}"),
            "retention.png": retention_curves(methods) if final else None,
        },
    }


def retention_curves(methods: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """What is left of the edits of the first stage in the course of the stream, one line a method."""
    lines: list[Series] = []
    for name, result in methods.items():
        matrix = result.get("retention") or []
        if len(matrix) > 1:
            applied = edits_applied([stage for stage in result["stages"] if stage["committed"]])[: len(matrix)]
            points = [(edits, float(row[0])) for edits, row in zip(applied, matrix, strict=True)]
            lines.append(Series(name, points, numbered(len(lines))))
    axis, title = "reliability of the first stage's edits", "What is left of the oldest edits"
    return line_plot(lines, "edits applied", axis, title, scale="share")


def metric_bars(tables: Figures, metrics: Sequence[str], title: str) -> bytes | None:
    """Metrics across, one bar a method; None when nothing was measured."""
    shown = [metric for metric in metrics if any(metric in table for table in tables.values())]
    if not shown:
        return None

    def draw(axes: Any) -> None:
        groups = [
            Series(method, [(x, float(table[m])) for x, m in enumerate(shown) if m in table], {"color": COLOURS[n % 8]})
            for n, (method, table) in enumerate(tables.items())
        ]
        draw_bars(axes, groups, shown)
        describe(axes, "", "", title)
        legend(axes)

    return to_png(draw, (max(7.6, 1.1 * len(shown) + 2), 3.8))


def _table(tables: Figures, names: Sequence[str] = ()) -> Table:
    names = names or shown_metrics(list(tables.values()))
    columns = ["method", *(name.removeprefix("retention.") for name in names)]
    return columns, [(method, *(one.get(name) for name in names)) for method, one in tables.items()]
