"""Which trials are stopped early: asynchronous successive halving of Ray Tune. The one file that imports ray.tune."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler


class EarlyStopping:
    """Compares each trial after its stages with what the trials before it had then.

    Args:
        stages: Stages of every trial.
        grace: Stages that every trial gets.
        reduction: About one trial in so many continues at each rung.
        mode: max or min.
        past: Objectives after each stage of the trials that ended before this process began.
    """

    def __init__(
        self, stages: int, grace: int, reduction: float, mode: str, past: Sequence[Sequence[float]] = ()
    ) -> None:
        self._rule: Any = AsyncHyperBandScheduler(  # it is asked outside of Tune: without a controller
            metric="objective", mode=mode, max_t=stages, grace_period=min(grace, stages), reduction_factor=reduction
        )
        self._trials: dict[str, Any] = {}
        for number, values in enumerate(past):
            for stage, value in enumerate(values):
                self.continues(f"past-{number}", stage, value)

    def continues(self, name: str, stage: int, objective: float) -> bool:
        """Whether a trial may continue after a stage, numbered from 0. A stage that is reported again counts once."""
        if name not in self._trials:
            self._trials[name] = SimpleNamespace(trial_id=name)
            self._rule.on_trial_add(None, self._trials[name])
        result = {"objective": objective, "training_iteration": stage + 1}
        return bool(self._rule.on_trial_result(None, self._trials[name], result) == self._rule.CONTINUE)
