"""The report of a search: report.md, report.html and plots. Files go into a given directory; else pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.pipelines.config.space import Domain
from elder.pipelines.pages.page import Block, Code, Heading, Picture, Table, Text, write_page
from elder.pipelines.search.plots import importance_bars, parallel_coordinates, pareto_front
from elder.pipelines.search.trials import Trials


def write_tune_report(directory: Path, trials: Trials, result: Mapping[str, Any], config: str) -> list[str]:
    """Write the report of a search.

    Args:
        directory: Exists.
        trials: The search, ended.
        result: Its result.
        config: Its resolved config as YAML.

    Returns:
        Names of the files below the directory.
    """
    blocks = tune_blocks(result, trials.config.space, config)
    return write_page(directory, blocks, f"Search {result['tune_id']}")


def tune_blocks(result: Mapping[str, Any], space: Mapping[str, Domain], config: str = "") -> list[Block]:
    """The page of a search.

    Args:
        result: As `pipelines.search.result.summary` makes it.
        space: The space that was searched.
        config: Its resolved config as YAML.
    """
    best, mode = result["best"], result["objective"]["mode"]
    blocks: list[Block] = [Heading(f"Search {result['tune_id']}", 1), _best(result)]
    blocks += [Heading("The best config"), Table(("key", "value"), [(k, _cell(v)) for k, v in
                                                                   best["parameters"].items()])]  # fmt: skip
    blocks += _finalists(result["finalists"])
    blocks += [Heading("Trials"), _trials(result["trials"], list(space))]
    blocks += _pictures(
        ("parallel.png", parallel_coordinates(space, result["trials"], mode), "Parameters and objective of every trial")
    )
    blocks += [Heading("Which parameters matter")]
    if result["importance"]:
        blocks.append(Text(f"Measured by PED-ANOVA over {result['importance_over']}."))
    else:
        blocks.append(Text(f"Not known: {result['importance_over']}."))
    blocks += _pictures(
        ("importance.png", importance_bars(result["importance"], result["importance_over"]), "Importance of parameters")
    )
    blocks += _pareto(result)
    blocks += [Heading("Time"), Table(("what", "value"), list(result["timing"].items()))]
    return [*blocks, Heading("Config"), Code(config, "yaml")] if config else blocks


def _best(result: Mapping[str, Any]) -> Table:
    best, objective = result["best"], result["objective"]
    names = ", ".join(objective["metrics"])
    kind = f"harmonic mean of {names}" if len(objective["metrics"]) > 1 else names
    registered = result["registered"]
    rows = [
        ("best trial", f"{best['trial']} (run {best['run_id']})"),
        ("objective", f"{kind}, {objective['mode']}"),
        ("of the trial", f"{best['objective']:.4f}"),
        ("mean over seeds", None if best["mean"] is None else f"{best['mean']:.4f}"),
        ("standard deviation", None if best["spread"] is None else f"{best['spread']:.4f}"),
        ("config", best["config"]),
        ("registered as", f"models:/{registered['name']}/{registered['version']}" if registered else None),
        ("config digest", result["config_digest"]),
    ]
    return Table(("", ""), [row for row in rows if row[1] is not None])


def _finalists(finalists: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not finalists:
        return [Text("Nothing was repeated with other seeds: the best is the best of one run each.")]
    seeds = max(len(one["seeds"]) for one in finalists)
    columns = ("rank", "trial", *(f"seed {seed}" for seed in finalists[0]["seeds"]), "mean", "deviation")
    rows = [
        (one["rank"], one["trial"], *one["objectives"], *[None] * (seeds - len(one["objectives"])), one["mean"],
         one["spread"])
        for one in finalists
    ]  # fmt: skip
    return [Heading("Repeated with other seeds"), Table(columns, rows)]


def _trials(trials: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    columns = ("trial", "status", "objective", "stages", "seconds", *keys, "why it failed")
    rows = [
        (t["trial"], t["status"], t["objective"], t["stages"], t["seconds"],
         *(_cell(t["parameters"].get(key)) for key in keys), (t["error"] or "").split("\n")[0] or None)
        for t in trials
    ]  # fmt: skip
    if not any(t["error"] for t in trials):
        return Table(columns[:-1], [row[:-1] for row in rows])
    return Table(columns, rows)


def _pareto(result: Mapping[str, Any]) -> list[Block]:
    front = result["pareto"]
    if not front:
        return []
    x, y = [name for name in front[0] if name != "trial"]
    points = [
        (t["trial"], t["metrics"][x], t["metrics"][y])
        for t in result["trials"]
        if t["status"] == "finished" and x in t["metrics"] and y in t["metrics"]
    ]
    picture = pareto_front(points, [one["trial"] for one in front])
    table = Table(("trial", x, y), [(one["trial"], one[x], one[y]) for one in front])
    return [Heading("Pareto front"), table, *_pictures(("pareto.png", picture, "Reliability against locality"))]


def _pictures(*named: tuple[str, bytes | None, str]) -> list[Block]:
    return [Picture(name, png, caption) for name, png, caption in named if png is not None]


def _cell(value: Any) -> Any:
    """A parameter as text that can be copied into a config."""
    return str(value) if isinstance(value, list | float | bool) else value
