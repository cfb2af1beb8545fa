"""The result and the report of a study: tables and plots by part, published figures beside ours, never mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.edit import Edit, dataset_digest
from elder.errors import ConfigError
from elder.pipelines.config.files import configs_dir
from elder.pipelines.config.strategies import BATCHED, SEQUENTIAL
from elder.pipelines.config.study import StudyConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.pages.page import Table, write_csv, write_page
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import RunState
from elder.pipelines.suite.comparison_report import SHARES
from elder.pipelines.suite.comparison_result import costs, right_after, shown_metrics
from elder.pipelines.suite.members import FINISHED, MemberResult
from elder.pipelines.suite.study_plots import Line, against_axis, bars

WHEN = ("right_after", "final")
SCORES = ("ES", "PS", "NS", "S")
FACT = "counterfact."


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
    config: StudyConfig,
    members: Sequence[Member],
    ended: Mapping[str, MemberResult],
    store: Store,
    stream: Sequence[Edit],
    wall_s: float,
) -> dict[str, Any]:
    """One entry a run: its place in the study, and its figures right after each batch and at the end."""
    runs = {}
    for member in members:
        place, one = config.places[member.name], ended[member.name]
        seconds, _ = costs(one.result)
        runs[member.name] = {
            "run_id": member.config.run_id, "part": place.part, "axis": place.axis, "method": place.method,
            "editor": member.config.editor.method, "strategy": place.strategy, "value": place.value,
            "edits": _done(one.result) or member.config.data.edits,
            "status": one.status, "error": one.error or None,
            "right_after": right_after(RunState(store, member.config.run_id)),
            "final": dict(one.result.get("final", {})), "seconds_per_edit": seconds,
        }  # fmt: skip
    return {
        "study_id": config.study_id,
        "config_digest": config.digest(),
        "base_model": next((dict(e.result["base_model"]) for e in ended.values() if e.result), {}),
        "dataset": {"name": config.run.data.source, "digest": dataset_digest(stream), "count": len(stream)},
        "seed": config.run.seed,
        "runs": runs,
        "failed": {name: one["error"] for name, one in runs.items() if one["status"] != FINISHED},
        "published": read_published(config.study.published),
        "timing": {"wall_s": wall_s},
    }


def _done(result: Mapping[str, Any]) -> int:
    """How many edits a run has applied: the data may hold fewer than it asked for."""
    return sum(int(stage["edits"]) for stage in result.get("stages", ()) if stage["committed"])


def write_study_report(directory: Path, result: Mapping[str, Any], config: str) -> list[str]:
    """Write report.md, report.html, study.csv and plots; returns names of the files."""
    files = write_page(directory, "study", study_context(result, config))
    runs = list(result["runs"].values())
    names = shown_metrics([run["right_after"] for run in runs] + [run["final"] for run in runs])
    head = ["part", "method", "editor", "strategy", "axis", "value", "edits", "status", "seconds_per_edit"]
    rows = [
        [*(run[key] for key in head), *(run[when].get(n) for when in WHEN for n in names), run["error"]] for run in runs
    ]
    write_csv(directory / "study.csv", [*head, *(f"{when}.{n}" for when in WHEN for n in names), "error"], rows)
    return [*files, "study.csv"]


def study_context(result: Mapping[str, Any], config: str = "") -> dict[str, Any]:
    """The context of `templates/study.jinja`."""
    base, published = result["base_model"], result["published"]
    runs = list(result["runs"].values())
    order = list(dict.fromkeys(run["method"] for run in runs))
    parts: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    for name in dict.fromkeys(run["part"] for run in runs):
        own = [run for run in runs if run["part"] == name]
        drawn = _pictures(name, own, order, published)
        pictures |= {file: png for file, _, png in drawn}
        captions = [(file, caption) for file, caption, _ in drawn]
        parts.append({"name": name, **_remarks(own), "tables": _tables(own), "captions": captions})
    return {
        "title": f"Study {result['study_id']}",
        "config": config,
        "result": result,
        "base": {"name": Path(str(base.get("id", ""))).name, "digest": str(base.get("digest", ""))},
        "parts": parts,
        "quoted": published and _quotations(published["rows"]),
        "pictures": pictures,
    }


def figures_of(run: Mapping[str, Any]) -> Mapping[str, float]:
    """The figures that count for a run: at the end of a stream, or right after each batch alone."""
    key = "final" if run["strategy"] in (SEQUENTIAL, BATCHED) else "right_after"
    return run[key]  # type: ignore[no-any-return]


def _remarks(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the figures can be trusted and, for blocks, which is best."""
    layers = runs[0]["axis"] == "layers"
    edits = [run["edits"] for run in runs]
    names = (f"{FACT}S", "reliability.generate", "reliability.forced") if layers else ()
    best = {name.removeprefix(FACT): found for name in names if (found := _best_blocks(runs, name))}
    return {
        "edits": sorted({min(edits), max(edits)}),
        "fewer": not layers and any(run["edits"] < run["value"] for run in runs if run["status"] == FINISHED),
        "best": next(iter(best.items()), None),
    }


def _best_blocks(runs: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    found = []
    for (method, strategy), own in _rows_of(runs).items():
        scored = [(float(figures_of(run)[name]), -run["value"]) for run in own if name in figures_of(run)]
        if scored:
            value, block = max(scored)
            found.append(f"{method}, {strategy}: {-block} ({value:.3f})")
    return found


def _tables(runs: Sequence[Mapping[str, Any]]) -> list[Table]:
    """CounterFact's scores, then shares; the answers' own locality is left to study.csv."""
    known = [name for name in shown_metrics([figures_of(run) for run in runs]) if "locality_answer" not in name]
    facts = [name for name in known if name.startswith(FACT)]
    shares = [name for name in known if name not in facts]
    return [_table(runs, names) for names in (facts, shares) if names] or [_table(runs, [])]


def _table(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    axis = {"layers": "block", "batch_size": "batch size"}[runs[0]["axis"]]
    short = [name.removeprefix(FACT).replace(".", ", ") for name in names]
    rows = [
        (run["method"] + ("" if run["status"] == FINISHED else f" ({run['status']})"), run["strategy"], run["value"],
         run["edits"], *(_float(figures_of(run).get(name)) for name in names), run["seconds_per_edit"])
        for run in runs
    ]  # fmt: skip
    return ["method", "strategy", axis, "edits", *short, "s/edit"], rows


def _float(value: Any) -> float | None:
    """A figure as a fraction, so that 1 is written as 1.000."""
    return None if value is None else float(value)


def _pictures(
    part: str, runs: Sequence[Mapping[str, Any]], order: Sequence[str], published: Mapping[str, Any] | None
) -> list[tuple[str, str, bytes]]:
    """File name, caption and PNG of two pictures: CounterFact's scores, and shares.

    Lines run along the axis; where it has one value there are bars.
    """
    source = str((published or {}).get("short") or (published or {}).get("source") or "")
    finished = [run for run in runs if run["status"] == FINISHED]
    found = []
    for name, metrics in (("counterfact", [f"{FACT}{score}" for score in SCORES]), ("shares", SHARES)):
        lines = {metric: _lines(finished, metric, order) for metric in metrics}
        lines = {metric: ours + _quoted(runs, metric, published) for metric, ours in lines.items() if ours}
        if not lines:
            continue
        if len({x for ours in lines.values() for line in ours if not line.quoted for x, _ in line.points}) > 1:
            png = against_axis(lines, runs[0]["axis"], source)
        else:
            png = bars(lines, source)
        caption = f"Part {part}: {', '.join(metric.removeprefix(FACT) for metric in lines)} by {runs[0]['axis']}"
        found.append((f"{part}_{name}.png", caption, png))
    return found


def _rows_of(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The runs by method and strategy."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        rows.setdefault((run["method"], run["strategy"]), []).append(run)
    return rows


def _lines(runs: Sequence[Mapping[str, Any]], name: str, order: Sequence[str]) -> list[Line]:
    strategies = list(dict.fromkeys(run["strategy"] for run in runs))
    found = []
    for (method, strategy), own in _rows_of(runs).items():
        points = sorted((int(run["value"]), float(figures_of(run)[name])) for run in own if name in figures_of(run))
        if points:
            found.append(Line(f"{method}, {strategy}", points, order.index(method), strategies.index(strategy)))
    return found


def _quoted(runs: Sequence[Mapping[str, Any]], name: str, published: Mapping[str, Any] | None) -> list[Line]:
    """Published points of the same methods and strategies, as shares of 1; other models' blocks are no axis of ours."""
    if published is None or runs[0]["axis"] != "batch_size":
        return []
    score, strategies = name.removeprefix(FACT), {run["strategy"] for run in runs}
    methods = {run["editor"] for run in runs}
    points: dict[str, list[tuple[int, float]]] = {}
    for row in published["rows"]:
        if row["strategy"] in strategies and methods & set(row["method"].split(", ")) and score in row:
            label = f"quoted [{row['tag']}]: {row['method']}, {row['strategy']}"
            points.setdefault(label, []).append((int(row["batch_size"]), float(row[score]) / 100))
    return [Line(label, sorted(own), i, quoted=True) for i, (label, own) in enumerate(points.items())]


def _quotations(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["method", "strategy", "batch size", *(f"{s}, %" for s in SCORES), "tag", "where"]
    return columns, [
        (row["method"], row["strategy"], row["batch_size"], *(_percent(row.get(s)) for s in SCORES), row["tag"],
         row["where"])
        for row in rows
    ]  # fmt: skip


def _percent(value: float | None) -> str:
    """With the decimals that were published, no more."""
    return "-" if value is None else f"{value:g}"
