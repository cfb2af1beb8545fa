"""A dry run of a comparison or study: the plan of every run and what they come to. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elder.errors import ConfigError, InputError
from elder.pipelines.config.suite import SuiteConfig
from elder.pipelines.planning.plan import Plan, plan
from elder.pipelines.planning.shapes import ModelShape, model_shape
from elder.pipelines.run.requirements import needs_text

TEXT_OPTIONS = ("text", "text_tokens", "bos")  # with the model and the block they decide what a statistic is


@dataclass(frozen=True)
class SuitePlan:
    """The content of `elder plan` for several runs.

    Attributes:
        whole: The comparison or study.
        shape: The base model.
        plans: Name of a run -> its plan.
        statistics: Name of a run -> the statistics it takes or finds, as texts that are equal for equal statistics.
    """

    whole: SuiteConfig
    shape: ModelShape
    plans: Mapping[str, Plan]
    statistics: Mapping[str, tuple[str, ...]]

    @property
    def totals(self) -> dict[str, int | None]:
        """Sums over the runs; statistics that several runs share are counted once. None where one is not known."""
        plans = list(self.plans.values())
        known = all(one.edits is not None for one in plans)
        return {
            "runs": len(plans),
            "edits": sum(one.edits or 0 for one in plans) if known else None,
            "stages": sum(len(one.stages) for one in plans) if known else None,
            "batches": sum(stage.batches for one in plans for stage in one.stages) if known else None,
            "statistics": len({name for names in self.statistics.values() for name in names}),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`; each run as `elder plan` gives it alone."""
        return {
            "kind": self.whole.KIND,
            "run_id": self.whole.run.run_id,
            "config_digest": self.whole.digest(),
            "config": self.whole.to_dict(),
            "runs": {name: one.to_dict() for name, one in self.plans.items()},
            "statistics": {name: len(found) for name, found in self.statistics.items()},
            "totals": self.totals,
            "keys": [f"{self.whole.root}/config.yaml", f"{self.whole.root}/report/"],
            "store": self.whole.run.tracking.store,
        }


def suite_plan(whole: SuiteConfig, memory_per_worker: int | None = None) -> SuitePlan:
    """Work out what all runs would do.

    Args:
        whole: The resolved comparison or study.
        memory_per_worker: Bytes of each worker's device, for the choice of sharding.

    Raises:
        ModelError: The base model's config cannot be found.
        ConfigError: What is wrong with any of the runs, named as in the config; all of it.
    """
    shape = model_shape(whole.run.model.source, whole.run.model.revision)
    plans: dict[str, Plan] = {}
    problems: list[str] = []
    for member in whole.members:
        try:
            plans[member.name] = plan(member.config, memory_per_worker=memory_per_worker, shape=shape)
        except InputError as error:
            problems += [text for text in whole.named(member.name, error) if text not in problems]
    if problems:
        raise ConfigError(problems)
    return SuitePlan(whole, shape, plans, {name: _statistics(one) for name, one in plans.items()})


def _statistics(one: Plan) -> tuple[str, ...]:
    if not needs_text(one.config):
        return ()
    wanted = {name: one.config.editor.options.get(name) for name in TEXT_OPTIONS}
    return tuple(json.dumps({"block": block, **wanted}, sort_keys=True) for block in one.edited)
