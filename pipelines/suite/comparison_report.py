"""The report of a comparison: report.md, report.html, compare.csv and plots, below a given directory."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elder.pipelines.pages.page import Block, Code, Heading, Picture, Table, Text, write_page
from elder.pipelines.suite.comparison_plots import metric_bars, retention_curves
from elder.pipelines.suite.comparison_result import RETENTION, costs, flat_rows, same_moment, shown_metrics

SHARES = ("reliability", "generalization", "locality")
SCORES = ("counterfact.ES", "counterfact.PS", "counterfact.NS", "counterfact.S")


def write_compare_report(directory: Path, result: Mapping[str, Any], config: str) -> list[str]:
    """Write the report; returns names of the files below the directory."""
    blocks = compare_blocks(result, config)
    files = write_page(directory, blocks, f"Comparison {result['compare_id']}")
    columns, rows = flat_rows(result)
    with (directory / "compare.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return [*files, "compare.csv"]


def compare_blocks(result: Mapping[str, Any], config: str = "") -> list[Block]:
    """The page of a comparison."""
    count = result["dataset"]["count"]
    blocks: list[Block] = [
        Heading(f"Comparison {result['compare_id']}", 1),
        Text(
            f"{count} edits of {result['dataset']['name']} (digest {result['dataset']['digest'][:12]}), the same "
            f"order, stages and seed ({result['seed']}) for every method. Strategy {result['strategy']}: "
            f"{result['strategy_means']}."
        ),
    ]
    if result["failed"]:
        rows = [(name, result["status"][name], error) for name, error in result["failed"].items()]
        blocks += [
            Heading("Did not finish"),
            Text("Their figures below, if any, are over what they committed."),
            Table(("method", "status", "why"), rows),
        ]
    final = {name: one["final"] for name, one in result["methods"].items()}
    blocks += [Heading(_early_title(result)), _table(result["right_after"])]
    if not same_moment(result):
        blocks += [Heading("After the whole stream, over all edits"), _table(final)]
        blocks += [
            Text(
                "Retention: backward transfer is what the edits of earlier stages gained since their own stage "
                "(negative: lost); first-last gap is how much better the newest stage fares than the oldest "
                "at the end."
            ),
            Table(
                ("method", *(name.removeprefix("retention.") for name in RETENTION)),
                [(name, *(one.get(metric) for metric in RETENTION)) for name, one in final.items()],
            ),
        ]
    rows = [(name, *costs(one)) for name, one in result["methods"].items()]
    blocks += [Heading("Cost"), Table(("method", "seconds an edit", "adapter, bytes"), rows)]
    blocks += _pictures(result, final)
    return [*blocks, Heading("Config"), Code(config, "yaml")] if config else blocks


def _early_title(result: Mapping[str, Any]) -> str:
    """The moment of the first table."""
    means = str(result["right_after_means"])
    return means[0].upper() + means[1:]


def _table(tables: Mapping[str, Mapping[str, float]]) -> Table:
    names = shown_metrics(list(tables.values()))
    return Table(("method", *names), [(name, *(one.get(m) for m in names)) for name, one in tables.items()])


def _pictures(result: Mapping[str, Any], final: Mapping[str, Mapping[str, float]]) -> list[Block]:
    shares = [f"{quantity}.{protocol}" for quantity in SHARES for protocol in ("generate", "forced")]
    after = result["right_after"]
    early = str(result["right_after_means"])
    found = [
        ("right_after.png", metric_bars(after, shares, f"Measured {early}"), f"Scores {early}"),
        ("right_after_counterfact.png", metric_bars(after, SCORES, f"Measured {early}"), f"CounterFact {early}"),
    ]
    if not same_moment(result):
        whole = "after the whole stream"
        found += [
            ("final.png", metric_bars(final, shares, f"Measured {whole}"), f"Scores {whole}"),
            ("final_counterfact.png", metric_bars(final, SCORES, f"Measured {whole}"), f"CounterFact {whole}"),
            ("retention.png", retention_curves(result["methods"]), "What is left of the first stage's edits"),
        ]
    return [Picture(name, png, caption) for name, png, caption in found if png is not None]
