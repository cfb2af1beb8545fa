"""The result and the report of a study: tables and plots by part, published figures beside ours, never mixed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.errors import ConfigError
from pipelines.compare_plots import COLOURS, MARKERS
from pipelines.compare_result import costs, right_after, shown_metrics
from pipelines.config_files import configs_dir
from pipelines.document import Block, Code, Heading, Picture, Table, Text, to_html, to_markdown
from pipelines.fleet import Ended, Member
from pipelines.plots import to_png
from pipelines.protocols import Store
from pipelines.state import RunState
from pipelines.strategies import BATCHED, SEQUENTIAL
from pipelines.study_config import StudyConfig

SCORES = ("ES", "PS", "NS", "S")
QUOTED = "#777777"
SHAPES = ("-", "--", ":", "-.")


def read_published(name: str | None) -> dict[str, Any] | None:
    """The published figures that a study quotes.

    Raises:
        ConfigError: There is no such file.
    """
    if name is None:
        return None
    path = configs_dir() / "studies" / "published" / f"{name}.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"study.published: '{name}' cannot be read: {error}") from error


def study_result(
    config: StudyConfig, members: Sequence[Member], ended: Mapping[str, Ended], store: Store, wall_s: float
) -> dict[str, Any]:
    """One entry a run: where it stands, and its figures right after each batch and at the end."""
    runs = {}
    for member in members:
        place, one = config.places[member.name], ended[member.name]
        seconds, _ = costs(one.result)
        runs[member.name] = {
            "run_id": member.config.run_id, "part": place.part, "axis": place.axis, "method": place.method,
            "strategy": place.strategy, "value": place.value, "edits": member.config.data.edits,
            "status": one.status, "error": one.error or None,
            "right_after": right_after(RunState(store, member.config.run_id)),
            "final": dict(one.result.get("final", {})), "seconds_per_edit": seconds,
        }  # fmt: skip
    return {
        "study_id": config.study_id,
        "config_digest": config.digest(),
        "base_model": next((dict(e.result["base_model"]) for e in ended.values() if e.result), {}),
        "runs": runs,
        "failed": {name: one["error"] for name, one in runs.items() if one["status"] != "finished"},
        "published": read_published(config.study.published),
        "timing": {"wall_s": wall_s},
    }


def write_study_report(directory: Path, result: Mapping[str, Any], config: str) -> list[str]:
    """Write report.md, report.html, study.csv and plots; returns names of the files."""
    blocks = study_blocks(result, config)
    title = f"Study {result['study_id']}"
    files = {"report.md": to_markdown(blocks).encode(), "report.html": to_html(blocks, title).encode()}
    files |= {f"plots/{block.name}": block.png for block in blocks if isinstance(block, Picture)}
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    runs = list(result["runs"].values())
    names = shown_metrics([run["right_after"] for run in runs] + [run["final"] for run in runs])
    head = ["part", "method", "strategy", "axis", "value", "edits", "status", "seconds_per_edit"]
    with (directory / "study.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*head, *(f"right_after.{n}" for n in names), *(f"final.{n}" for n in names), "error"])
        for run in runs:
            figures = [run["right_after"].get(n) for n in names] + [run["final"].get(n) for n in names]
            writer.writerow([*(run[key] for key in head), *figures, run["error"]])
    return [*files, "study.csv"]


def study_blocks(result: Mapping[str, Any], config: str = "") -> list[Block]:
    """The page of a study."""
    blocks: list[Block] = [
        Heading(f"Study {result['study_id']}", 1),
        Text(
            f"Base model {result['base_model'].get('id', '')}. Strategies single and batch: every batch alone on the "
            "unedited model, measured right after it. Sequential strategies: measured after the whole stream, over all "
            "edits; study.csv also has what was measured right after each stage. Shares of 1."
        ),
    ]
    if result["failed"]:
        blocks += [Heading("Did not finish"), Table(("run", "why"), list(result["failed"].items()))]
    for part in dict.fromkeys(run["part"] for run in result["runs"].values()):
        runs = [run for run in result["runs"].values() if run["part"] == part]
        blocks += [Heading(f"Part {part}"), _table(runs), *_pictures(part, runs, result["published"])]
    blocks += _published(result["published"])
    return [*blocks, Heading("Config"), Code(config, "yaml")] if config else blocks


def figures_of(run: Mapping[str, Any]) -> Mapping[str, float]:
    """What counts for a run: the end of a stream, or what was measured right after each batch alone."""
    key = "final" if run["strategy"] in (SEQUENTIAL, BATCHED) else "right_after"
    return run[key]  # type: ignore[no-any-return]


def _table(runs: Sequence[Mapping[str, Any]]) -> Table:
    names = shown_metrics([figures_of(run) for run in runs])
    columns = (
        "method",
        "strategy",
        runs[0]["axis"],
        "edits",
        *(n.removeprefix("counterfact.") for n in names),
        "s/edit",
    )
    rows = [
        (run["method"], run["strategy"], run["value"], run["edits"], *(figures_of(run).get(n) for n in names),
         run["seconds_per_edit"])
        for run in runs
    ]  # fmt: skip
    return Table(columns, rows)


def _pictures(part: str, runs: Sequence[Mapping[str, Any]], published: Mapping[str, Any] | None) -> list[Block]:
    """One plot a score: a line for each method and strategy."""
    names = [f"counterfact.{score}" for score in SCORES] + ["reliability.forced", "reliability.generate"]
    found: list[Block] = []
    for name in names:
        lines = _lines(runs, name)
        if lines:
            quoted = _quoted(runs, name, published)
            png = score_lines(lines, quoted, name.removeprefix("counterfact."), runs[0]["axis"])
            found.append(Picture(f"{part}_{name.replace('.', '_')}.png", png, f"{name} by {runs[0]['axis']}"))
    return found


def _lines(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        if name in figures_of(run):
            label = f"{run['method']}, {run['strategy']}"
            lines.setdefault(label, []).append((int(run["value"]), float(figures_of(run)[name])))
    return {label: sorted(points) for label, points in lines.items()}


def _quoted(
    runs: Sequence[Mapping[str, Any]], name: str, published: Mapping[str, Any] | None
) -> dict[str, list[tuple[int, float]]]:
    """Published points on the same axis, as shares of 1; layers of other models are no axis of ours."""
    if published is None or runs[0]["axis"] != "batch_size":
        return {}
    score, strategies = name.removeprefix("counterfact."), {run["strategy"] for run in runs}
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in published["rows"]:
        if row["strategy"] in strategies and score in row:
            label = f"quoted [{row['tag']}]: {row['method']}, {row['strategy']}"
            lines.setdefault(label, []).append((int(row["batch_size"]), float(row[score]) / 100))
    return {label: sorted(points) for label, points in lines.items()}


def score_lines(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    quoted: Mapping[str, Sequence[tuple[int, float]]],
    score: str,
    axis: str,
) -> bytes:
    """A score against the axis; quoted lines are thin and grey."""

    def draw(axes: Any) -> None:
        for number, (label, points) in enumerate(quoted.items()):
            style: dict[str, Any] = {"color": QUOTED, "linewidth": 0.9, "linestyle": SHAPES[1 + number % 3]}
            axes.plot(*zip(*points, strict=True), marker="x", markersize=4, label=label, **style)
        for number, (label, points) in enumerate(lines.items()):
            look: dict[str, Any] = {"color": COLOURS[number % 8], "marker": MARKERS[number % 8], "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=label, **look)
        if axis == "batch_size":
            axes.set_xscale("log", base=2)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("edits in a batch" if axis == "batch_size" else "edited block")
        axes.set_ylabel(score)
        axes.set_title(score, loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7)

    return to_png(draw, (8.6, 3.8))


def _published(published: Mapping[str, Any] | None) -> list[Block]:
    if published is None:
        return []
    rows = [
        (row["method"], row["strategy"], row["batch_size"], *(row.get(s) for s in SCORES), row["tag"], row["where"])
        for row in published["rows"]
    ]
    best = published.get("best_layer")
    told = f" Best layer there: index {best['layer']} of {best['of']} [{best['tag']}]." if best else ""
    return [
        Heading("Published figures"),
        Text(f"Quoted, not measured here: {published['source']}. {published['note']}{told}"),
        Table(("method", "strategy", "batch size", *SCORES, "tag", "where"), rows),
    ]
