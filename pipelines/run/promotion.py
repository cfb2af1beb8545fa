"""Whether a stage may be promoted: what speaks against it. Pure; knows no tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from elder.pipelines.run.gates import refusals

DEFAULT_PROTOCOL = "generate"


def objections(
    gates: Mapping[str, float] | None, protocols: Sequence[str], metrics: Mapping[str, float], run_status: str
) -> list[str]:
    """One sentence for everything that speaks against a promotion; empty when nothing does.

    Args:
        gates: `config.gates` of the run that made the stage; None when the run left no config.
        protocols: `config.evaluation.protocols` of that run.
        metrics: What was measured after the stage, over all edits.
        run_status: RUNNING, FINISHED, FAILED or KILLED.
    """
    found = []
    if run_status == "FAILED":
        found.append("its run failed: a gate refused a later stage, or the run broke off with an error")
    if not metrics:
        found.append("nothing was measured of this stage")
    if gates is None:
        found.append("its run left no config, so that nobody knows which gates were meant to hold")
    elif metrics:
        found += refusals(gates, metrics, protocols or (DEFAULT_PROTOCOL,))
    return found
