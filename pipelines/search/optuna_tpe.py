"""The two things that Optuna does for us: suggest by TPE, and say which parameters matter. It alone imports optuna.

Both rebuild a study in memory from what the search has recorded, so nothing of Optuna's own state must survive.
Knows nothing of stores, Ray or configs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from elder.pipelines.config.space import DIGITS, Domain

MODES: dict[str, Any] = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True)
class Past:
    """A trial as far as it is known.

    Attributes:
        parameters: What it tried.
        values: Its objective after each stage; empty while nothing is known of it.
        status: `finished`, `pruned`, `failed` or `running`.
    """

    parameters: Mapping[str, Any]
    values: Sequence[float]
    status: str


def suggest_tpe(
    space: Mapping[str, Domain], past: Sequence[Past], mode: str, seed: int, startup: int
) -> dict[str, Any]:
    """A point by the tree-structured Parzen estimator; the same past and seed give the same point.

    Args:
        space: Where to look.
        past: All trials so far. Running ones count as bad as the worst, so that several at a time spread out.
        mode: max or min.
        seed: Of this suggestion alone.
        startup: Trials with a value below which the point is drawn at random.
    """
    import optuna

    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=False)
        study = _study(space, _with_lies(past, mode), mode, sampler)
        asked = study.ask(fixed_distributions={key: _distribution(domain) for key, domain in space.items()})
        return {key: _value(domain, asked.params[key]) for key, domain in space.items()}


def importance(space: Mapping[str, Domain], past: Sequence[Past], mode: str) -> dict[str, float]:
    """The share of each parameter in what tells good trials from the rest (PED-ANOVA), largest first.

    Args:
        space: The space that was searched.
        past: Finished trials; each needs a finite last value.
        mode: max or min.
    """
    import optuna

    with _quiet():
        study = _study(space, past, mode, optuna.samplers.RandomSampler(seed=0))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(space))
    return {key: float(value) for key, value in sorted(found.items(), key=lambda item: -item[1])}


def _with_lies(past: Sequence[Past], mode: str) -> list[Past]:
    """Running trials as if they had ended as badly as any (the constant liar)."""
    ended = [one.values[-1] for one in past if one.status == "finished" and one.values]
    if not ended:
        return list(past)
    lie = min(ended) if mode == "max" else max(ended)
    return [Past(one.parameters, [lie], "finished") if one.status == "running" else one for one in past]


def _study(space: Mapping[str, Domain], past: Sequence[Past], mode: str, sampler: Any) -> Any:
    import optuna

    study = optuna.create_study(direction=MODES[mode], sampler=sampler)
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    states = optuna.trial.TrialState
    for one in past:
        finite = [value for value in one.values if math.isfinite(value)]
        state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "running": states.RUNNING}.get(one.status)
        if one.status in ("finished", "pruned") and not finite:
            state = None
        study.add_trial(
            optuna.trial.create_trial(
                state=state or states.FAIL,
                value=finite[-1] if state in (states.COMPLETE, states.PRUNED) else None,
                params={key: _internal(domain, one.parameters[key]) for key, domain in space.items()},
                distributions=distributions,
                intermediate_values=dict(enumerate(finite, 1)),
            )
        )
    return study


def _distribution(domain: Domain) -> Any:
    """Choices by their number: they may be lists, which Optuna does not take."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.kind == "choice":
        return CategoricalDistribution(tuple(range(len(domain.values))))
    low, high = domain.values
    return (IntDistribution if domain.whole else FloatDistribution)(low, high, log=domain.log)


def _internal(domain: Domain, value: Any) -> Any:
    return domain.values.index(value) if domain.kind == "choice" else value


def _value(domain: Domain, internal: Any) -> Any:
    if domain.kind == "choice":
        return domain.values[internal]
    if domain.whole:
        return int(internal)
    low, high = domain.values
    return min(max(float(f"{internal:.{DIGITS}g}"), low), high)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log lines and its warnings that a feature is new."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
