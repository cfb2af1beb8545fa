"""The result and the report of a study: tables and plots by part, published figures beside ours, never mixed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from elder.edit import Edit, dataset_digest
from elder.errors import ConfigError
from elder.pipelines.config.files import configs_dir
from elder.pipelines.config.strategies import BATCHED, SEQUENTIAL
from elder.pipelines.config.study import StudyConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.pages.page import Block, Code, Heading, Picture, Table, Text, write_page
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import RunState
from elder.pipelines.suite.comparison_result import costs, right_after, shown_metrics
from elder.pipelines.suite.members import FINISHED, MemberResult
from elder.pipelines.suite.study_plots import Line, against_axis, bars

SCORES = ("ES", "PS", "NS", "S")
FACT = "counterfact."
FEWER = " The data hold fewer edits than the largest batches ask for: these are batches of all there are."
SHARES = [
    f"{quantity}.{p}" for quantity in ("reliability", "generalization", "locality") for p in ("generate", "forced")
]


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
    blocks = study_blocks(result, config)
    files = write_page(directory, blocks, f"Study {result['study_id']}")
    runs = list(result["runs"].values())
    names = shown_metrics([run["right_after"] for run in runs] + [run["final"] for run in runs])
    head = ["part", "method", "editor", "strategy", "axis", "value", "edits", "status", "seconds_per_edit"]
    with (directory / "study.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*head, *(f"right_after.{n}" for n in names), *(f"final.{n}" for n in names), "error"])
        for run in runs:
            figures = [run["right_after"].get(n) for n in names] + [run["final"].get(n) for n in names]
            writer.writerow([*(run[key] for key in head), *figures, run["error"]])
    return [*files, "study.csv"]


def study_blocks(result: Mapping[str, Any], config: str = "") -> list[Block]:
    """The page of a study."""
    data, base = result["dataset"], result["base_model"]
    blocks: list[Block] = [
        Heading(f"Study {result['study_id']}", 1),
        Text(
            f"Base model {Path(str(base.get('id', ''))).name} (digest {str(base.get('digest', ''))[:12]}); up to "
            f"{data['count']} edits of {data['name']} (digest {data['digest'][:12]}), seed {result['seed']}. "
            "Strategies single and batch: every batch alone on the unedited model, measured right after it. Sequential "
            "strategies: measured after the whole stream, over all edits; study.csv also has what was measured right "
            "after each stage. Shares of 1."
        ),
    ]
    if result["failed"]:
        blocks += [
            Heading("Did not finish"),
            Text("Their figures, if any, are over what they committed; they are in the tables and not in the plots."),
            Table(("run", "why"), list(result["failed"].items())),
        ]
    order = list(dict.fromkeys(run["method"] for run in result["runs"].values()))
    for part in dict.fromkeys(run["part"] for run in result["runs"].values()):
        runs = [run for run in result["runs"].values() if run["part"] == part]
        blocks += [Heading(f"Part {part}"), *_remarks(runs), *_tables(runs)]
        blocks += _pictures(part, runs, order, result["published"])
    blocks += _published(result["published"])
    return [*blocks, Heading("Config"), Code(config, "yaml")] if config else blocks


def figures_of(run: Mapping[str, Any]) -> Mapping[str, float]:
    """What counts for a run: the end of a stream, or what was measured right after each batch alone."""
    key = "final" if run["strategy"] in (SEQUENTIAL, BATCHED) else "right_after"
    return run[key]  # type: ignore[no-any-return]


def _remarks(runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """How far the figures can be trusted and, for blocks, which is best."""
    edits = sorted({run["edits"] for run in runs})
    count = f"{edits[0]}" if len(edits) == 1 else f"{edits[0]} to {edits[-1]}"
    short = any(run["edits"] < run["value"] for run in runs if run["axis"] != "layers" and run["status"] == FINISHED)
    error = 0.5 / edits[0] ** 0.5
    text = f"{count} edits a run; a share of {edits[0]} cases has a standard error of up to {error:.3f}."
    text += FEWER if short else ""
    if runs[0]["axis"] == "layers":
        for name in (f"{FACT}S", "reliability.generate", "reliability.forced"):
            best = _best_blocks(runs, name)
            if best:
                return [Text(f"{text} Best block by {name.removeprefix(FACT)}: {'; '.join(best)}.")]
    return [Text(text)]


def _best_blocks(runs: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    found = []
    for (method, strategy), own in _rows_of(runs).items():
        scored = [(float(figures_of(run)[name]), -run["value"]) for run in own if name in figures_of(run)]
        if scored:
            value, block = max(scored)
            found.append(f"{method}, {strategy}: {-block} ({value:.3f})")
    return found


def _tables(runs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """CounterFact's scores, then shares; the answers' own locality is left to study.csv."""
    known = [name for name in shown_metrics([figures_of(run) for run in runs]) if "locality_answer" not in name]
    facts = [name for name in known if name.startswith(FACT)]
    shares = [name for name in known if name not in facts]
    return [_table(runs, names) for names in (facts, shares) if names] or [_table(runs, [])]


def _table(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    axis = {"layers": "block", "batch_size": "batch size"}[runs[0]["axis"]]
    short = (name.removeprefix(FACT).replace(".", ", ") for name in names)
    rows = [
        (run["method"] + ("" if run["status"] == FINISHED else f" ({run['status']})"), run["strategy"], run["value"],
         run["edits"], *(_float(figures_of(run).get(name)) for name in names), run["seconds_per_edit"])
        for run in runs
    ]  # fmt: skip
    return Table(("method", "strategy", axis, "edits", *short, "s/edit"), rows)


def _float(value: Any) -> float | None:
    """A figure as a fraction, so that 1 is written as 1.000."""
    return None if value is None else float(value)


def _pictures(
    part: str, runs: Sequence[Mapping[str, Any]], order: Sequence[str], published: Mapping[str, Any] | None
) -> list[Block]:
    """CounterFact's scores in one picture, shares in another: lines along the axis, bars where it has one value."""
    source = str((published or {}).get("short") or (published or {}).get("source") or "")
    finished = [run for run in runs if run["status"] == FINISHED]
    found: list[Block] = []
    for name, metrics in (("counterfact", [f"{FACT}{score}" for score in SCORES]), ("shares", SHARES)):
        lines = {metric: _lines(finished, metric, order) for metric in metrics}
        lines = {metric: ours + _quoted(runs, metric, published) for metric, ours in lines.items() if ours}
        if not lines:
            continue
        if len({x for ours in lines.values() for line in ours if not line.quoted for x, _ in line.points}) > 1:
            png = against_axis(lines, runs[0]["axis"], source)
        else:
            png = bars(_turned(lines), list(lines), source)
        caption = f"Part {part}: {', '.join(metric.removeprefix(FACT) for metric in lines)} by {runs[0]['axis']}"
        found.append(Picture(f"{part}_{name}.png", png, caption))
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


def _turned(lines: Mapping[str, Sequence[Line]]) -> list[Line]:
    """Lines of one value each as bars: a bar a method and strategy, its points the metrics."""
    found: dict[str, Line] = {}
    for number, own in enumerate(lines.values()):
        for line in own:
            before = found.get(line.label, replace(line, points=()))
            found[line.label] = replace(before, points=[*before.points, *((number, y) for _, y in line.points)])
    return sorted(found.values(), key=lambda line: line.quoted)


def _published(published: Mapping[str, Any] | None) -> list[Block]:
    if published is None:
        return []
    rows = [
        (row["method"], row["strategy"], row["batch_size"], *(_percent(row.get(s)) for s in SCORES), row["tag"],
         row["where"])
        for row in published["rows"]
    ]  # fmt: skip
    best = published.get("best_layer")
    layer = f" Best layer there: index {best['layer']} of {best['of']} [{best['tag']}]." if best else ""
    return [
        Heading("Published figures"),
        Text(f"Quoted, not measured here: {published['source']}. {published['note']}{layer}"),
        Table(("method", "strategy", "batch size", *(f"{s}, %" for s in SCORES), "tag", "where"), rows),
    ]


def _percent(value: float | None) -> str:
    """With the decimals that were published, no more."""
    return "-" if value is None else f"{value:g}"
