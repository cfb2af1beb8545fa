"""The machine-readable result of a search, a pure function of its records. docs/tune.md describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from elder.pipelines.config.objective import pareto
from elder.pipelines.search.optuna_tpe import Past, importance
from elder.pipelines.search.records import FINISHED, TrialRecord
from elder.pipelines.search.trials import Repeats, Trials

ENOUGH = 8  # trials below which the importance of a parameter is noise


def summary(
    trials: Trials,
    winner: Repeats,
    config_place: str,
    registered: Mapping[str, Any] | None,
    timing: Mapping[str, float],
) -> dict[str, Any]:
    """The result.

    Args:
        trials: The search, ended.
        winner: Who won.
        config_place: Where best.yaml lies.
        registered: Name and version of the registered adapter.
        timing: Seconds of this call.
    """
    records = [record for _, record in sorted(trials.records.items())]
    own = [record for record in records if record.name.startswith("t")]
    matter, over = importances(trials)
    return {
        "tune_id": trials.config.tune_id,
        "config_digest": trials.config.digest(),
        "objective": {"metrics": list(trials.config.metrics), "mode": trials.config.tune.mode},
        "best": {
            "trial": winner.trial.name,
            "run_id": trials.state.run_id(winner.trial.name),
            "parameters": dict(winner.trial.parameters),
            "objective": winner.trial.objective,
            "mean": winner.mean,
            "spread": winner.spread,
            "metrics": dict(winner.trial.final),
            "config": config_place,
        },
        "trials": [trial_row(record) for record in own],
        "finalists": [_finalist(one, trials) for one in trials.finalists()],
        "pareto": front(own, trials.config.run.evaluation.protocols[0]),
        "importance": matter,
        "importance_over": over,
        "registered": dict(registered) if registered else None,
        "timing": {**timing, "runs_s": round(sum(record.seconds for record in records), 3), "runs": len(records)},
    }


def trial_row(record: TrialRecord) -> dict[str, Any]:
    """One trial, without the metrics of its earlier stages."""
    return {
        "trial": record.name,
        "status": record.status,
        "parameters": dict(record.parameters),
        "objective": record.objective,
        "stages": len(record.metrics),
        "metrics": dict(record.final),
        "seconds": record.seconds,
        "error": record.error or None,
    }


def front(records: list[TrialRecord], protocol: str) -> list[dict[str, Any]]:
    """Finished trials that no other beats in both reliability and locality."""
    x, y = f"reliability.{protocol}", f"locality.{protocol}"
    known = [r for r in records if r.status == FINISHED and r.final.get(x) is not None and r.final.get(y) is not None]
    points = [(float(record.final[x]), float(record.final[y])) for record in known]
    return [{"trial": known[i].name, x: points[i][0], y: points[i][1]} for i in pareto(points)]


def importances(trials: Trials) -> tuple[dict[str, float] | None, str]:
    """The share of each parameter, and over which trials; None and the reason when there are too few.

    Where a scheduler let few come to their end, the objective after the first stage of all trials is taken.
    """
    own = [record for name, record in sorted(trials.records.items()) if name.startswith("t") and record.metrics]
    ended = [record for record in own if record.status == FINISHED]
    space, mode = trials.config.space, trials.config.tune.mode
    if len(space) < 2:
        return None, "one parameter only"
    for found, last in ((ended, True), (own, False)):
        past = [Past(r.parameters, values[-1:] if last else values[:1], FINISHED) for r in found
                if (values := trials.values(r))]  # fmt: skip
        if len(past) >= ENOUGH and len({one.values[0] for one in past}) > 1:
            return importance(space, past, mode), f"{len(past)} trials, " + ("at their end" if last else "stage 0")
    return None, f"{len(own)} trials are too few (at least {ENOUGH} of different objectives are needed)"


def best_config(trials: Trials, winner: Repeats) -> str:
    """The winner's resolved config as a file that `elder edit` takes."""
    values = trials.config_of(winner.trial.name).to_dict()
    del values["run_id"]  # a run of its own
    scored = f"mean {winner.mean:.4f} over {len(winner.objectives)} seeds" if winner.mean is not None else "one run"
    head = f"# The best of search {trials.config.tune_id}: trial {winner.trial.name}, objective {scored}.\n"
    return head + str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _finalist(one: Repeats, trials: Trials) -> dict[str, Any]:
    return {
        "rank": one.rank,
        "trial": one.trial.name,
        "parameters": dict(one.trial.parameters),
        "seeds": [one.trial.seed, *(run.seed for run in one.runs)],
        "objectives": one.objectives,
        "mean": one.mean,
        "spread": one.spread,
        "runs": [trials.state.run_id(record.name) for record in (one.trial, *one.runs)],
    }
