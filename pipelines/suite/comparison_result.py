"""The machine-readable result of a comparison, and its tables. docs/compare.md describes both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from elder.edit import Edit, dataset_digest
from elder.errors import AdapterError
from elder.metrics.after_answer import EDITED, OWN, RATIO, loss_ratio
from elder.metrics.counterfact import harmonic_mean
from elder.metrics.figures import SCOPES, SHARES
from elder.pipelines.config.comparison import CompareConfig
from elder.pipelines.config.strategies import MEANINGS, moment
from elder.pipelines.config.suite import Member
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import RunState
from elder.pipelines.suite.members import FINISHED, MemberResult

AFTER_ANSWER = (EDITED, OWN, RATIO)
NEAR_SCOPES = tuple(name for name in SCOPES if name not in ("scope.edits", "scope.rephrases", "scope.locality"))
COUNTERFACT = ("ES", "PS", "NS", "S", "EM", "PM", "NM")
RETENTION = ("retention.backward_transfer", "retention.first_last_gap")


def compare_result(
    config: CompareConfig,
    members: Sequence[Member],
    ended: Mapping[str, MemberResult],
    store: Store,
    stream: Sequence[Edit],
    timing: Mapping[str, float],
) -> dict[str, Any]:
    """The result.

    Args:
        config: The comparison.
        members: Its runs.
        ended: What became of them.
        store: Where their rows are.
        stream: The edits.
        timing: Seconds of this call.
    """
    names = [member.name for member in members]
    return {
        "compare_id": config.compare_id,
        "config_digest": config.digest(),
        "strategy": config.compare.strategy,
        "strategy_means": MEANINGS[config.compare.strategy],
        "right_after_means": moment(config.compare.strategy, members[0].config.stream),
        "seed": config.run.seed,
        "dataset": {"name": config.run.data.source, "digest": dataset_digest(stream), "count": len(stream)},
        "methods": {name: {**ended[name].result, "error": ended[name].error or None} for name in names},
        "status": {name: ended[name].status for name in names},
        "right_after": {m.name: right_after(RunState(store, m.config.run_id)) for m in members},
        "failed": {name: ended[name].error for name in names if ended[name].status != FINISHED},
        "timing": dict(timing),
    }


def right_after(state: RunState) -> dict[str, float]:
    """Metrics of every edit as it was measured first, after its own stage: means over all committed stages.

    Nothing for a run whose record is damaged: such a run has failed, and says so itself.
    """
    values: dict[str, list[float]] = {}
    try:
        measured = [(commit, state.read_rows(commit)) for commit in state.commits()]
    except AdapterError:
        return {}
    for commit, rows in measured:
        for row in rows:
            if row.get("stage") != commit.stage:
                continue
            for name in commit.metrics:
                value = row.get(name)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    values.setdefault(name, []).append(float(value))
    found = {name: fmean(numbers) for name, numbers in sorted(values.items())}
    return found | score(found) | loss_ratio(found)


def score(metrics: Mapping[str, float]) -> dict[str, float]:
    """CounterFact's S of mean scores; nothing where one of them is missing."""
    parts = [metrics.get(f"counterfact.{name}") for name in ("ES", "PS", "NS")]
    present = [part for part in parts if part is not None]
    return {"counterfact.S": harmonic_mean(present)} if len(present) == 3 else {}


def shown_metrics(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The metrics that a table shows, of those that any method has, in reading order."""
    known = {name for table in tables for name in table}
    order = [f"{q}.{p}{plain}" for q in SHARES for plain in ("", ".plain") for p in ("generate", "forced")]
    order += [f"counterfact.{name}" for name in COUNTERFACT]
    order += [*AFTER_ANSWER, *NEAR_SCOPES]
    return [name for name in order if name in known]


def costs(result: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """Seconds an edit and bytes of the adapter, of a method's result; None where nothing is known."""
    speed = (result.get("timing") or {}).get("edits_per_s") or 0.0
    size = (result.get("adapter") or {}).get("bytes") or None
    return (1 / speed if speed else None), size


def same_moment(result: Mapping[str, Any]) -> bool:
    """Whether the end of the stream is the only moment at which anything was measured."""
    return result["strategy"] in ("single", "batch")


def flat_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """One row a method with everything, for a CSV file."""
    after, end = result["right_after"], {name: one["final"] for name, one in result["methods"].items()}
    early, late = shown_metrics(list(after.values())), shown_metrics(list(end.values()))
    kept = sorted({name for one in end.values() for name in one if name.startswith("retention.")})
    extra = ["perplexity"] if any("perplexity" in one for one in end.values()) else []
    columns = ["method", "editor", "status", "strategy", "edits"]
    columns += [f"right_after.{name}" for name in early] + [f"final.{name}" for name in (*late, *extra)] + kept
    columns += ["seconds_per_edit", "adapter_bytes", "error"]
    rows = []
    for name, one in result["methods"].items():
        seconds, size = costs(one)
        done = sum(stage["edits"] for stage in one.get("stages", ()) if stage["committed"])
        row: list[Any] = [name, one.get("editor", name), result["status"][name], result["strategy"], done]
        row += [after[name].get(m) for m in early] + [end[name].get(m) for m in (*late, *extra, *kept)]
        rows.append([*row, seconds, size, one["error"]])
    return columns, rows
