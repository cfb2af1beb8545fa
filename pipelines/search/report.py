"""The report of a search: report.md, report.html and plots. Files go into a given directory; else pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.pipelines.config.space import Domain
from elder.pipelines.pages.page import Table, write_page
from elder.pipelines.search.plots import importance_bars, parallel_coordinates, pareto_front


def write_tune_report(
    directory: Path, result: Mapping[str, Any], space: Mapping[str, Domain], config: str
) -> list[str]:
    """Write the report of a search; returns the names of the files below the directory.

    Args:
        directory: Exists.
        result: As `pipelines.search.result.summary` makes it.
        space: The space that was searched.
        config: Its resolved config as YAML.
    """
    return write_page(directory, "search", search_context(result, space, config))


def search_context(result: Mapping[str, Any], space: Mapping[str, Domain], config: str) -> dict[str, Any]:
    """The context of `templates/search.jinja`; arguments as in `write_tune_report`."""
    trials, finalists, mode = result["trials"], result["finalists"], result["objective"]["mode"]
    seeds = max((len(one["seeds"]) for one in finalists), default=0)
    pareto, front = _pareto(result)
    return {
        "title": f"Search {result['tune_id']}",
        "config": config,
        "result": result,
        "best_parameters": [(key, _cell(value)) for key, value in result["best"]["parameters"].items()],
        "seeds": [f"seed {seed}" for seed in finalists[0]["seeds"]] if finalists else [],
        "finalists": [
            (one["rank"], one["trial"], *one["objectives"], *[None] * (seeds - len(one["objectives"])), one["mean"],
             one["spread"])
            for one in finalists
        ],
        "trials": _trials(trials, list(space)),
        "pareto": pareto,
        "pictures": {
            "parallel.png": parallel_coordinates(space, trials, mode),
            "importance.png": importance_bars(result["importance"], result["importance_over"]),
            "pareto.png": front,
        },
    }  # fmt: skip


def _trials(trials: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Table:
    columns = ["trial", "status", "objective", "stages", "seconds"]
    rows = [[*(t[name] for name in columns), *(_cell(t["parameters"].get(key)) for key in keys)] for t in trials]
    columns += keys
    if any(t["error"] for t in trials):
        columns.append("why it failed")
        rows = [[*row, (t["error"] or "").split("\n")[0] or None] for row, t in zip(rows, trials, strict=True)]
    return columns, rows


def _pareto(result: Mapping[str, Any]) -> tuple[Table | None, bytes | None]:
    front = result["pareto"]
    if not front:
        return None, None
    x, y = (name for name in front[0] if name != "trial")
    points = [
        (t["trial"], t["metrics"][x], t["metrics"][y])
        for t in result["trials"]
        if t["status"] == "finished" and x in t["metrics"] and y in t["metrics"]
    ]
    table = (["trial", x, y], [(one["trial"], one[x], one[y]) for one in front])
    return table, pareto_front(points, [one["trial"] for one in front])


def _cell(value: Any) -> Any:
    """A parameter as text that can be copied into a config."""
    return str(value) if isinstance(value, list | float | bool) else value
