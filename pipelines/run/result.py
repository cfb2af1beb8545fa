"""The machine-readable result of a run, a pure function of what is committed.

Knows nothing of clusters or trackers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elder.pipelines.run.commits import Commit, RunState, adapter_files
from elder.pipelines.run.spec import Event, RunSpec

SECONDS = ("load_s", "edit_s", "evaluate_s", "commit_s")


def make_result(
    job: RunSpec, state: RunState, registered: Mapping[str, Any] | None = None, refused: Event | None = None
) -> dict[str, Any]:
    """The result in the layout of docs/design.md, section 3.

    Args:
        job: The run.
        state: Where its commits are read.
        registered: Name and version of the registered adapter.
        refused: The event of a stage that a gate refused; it is listed last, as not committed.
    """
    commits = state.commits()
    last = commits[-1] if commits else None
    stages = [_stage(c.stage, c.edits - c.first, c.state_digest, True, c.metrics) for c in commits]
    if refused is not None:
        plan = job.stages[int(refused["stage"])]
        stages.append(_stage(plan.stage, plan.end - plan.first, "", False, refused["metrics"]))
    return {
        "run_id": job.config.run_id,
        "config_digest": job.config.digest(),
        "base_model": dict(last.base) if last else {"id": job.config.model.source, "digest": ""},
        "stages": stages,
        "final": dict(last.metrics) if last else {},
        "retention": [list(c.retention) for c in commits] if all(c.retention for c in commits) else [],
        "adapter": _adapter(state, last),
        "registered": dict(registered) if registered else None,
        "timing": timing(commits),
        **({"skipped": list(job.skipped)} if job.skipped else {}),
        **({"known": {"asked": job.known.asked, "kept": len(job.known.kept)}} if job.known else {}),
        **({"unknown": list(job.unknown)} if job.unknown else {}),
    }


def timing(commits: Sequence[Commit]) -> dict[str, float]:
    """Seconds over all committed stages, whichever attempt did them."""
    total = {name: sum(commit.timing.get(name, 0.0) for commit in commits) for name in SECONDS}
    edits = commits[-1].edits if commits else 0
    return {**total, "edits_per_s": edits / total["edit_s"] if total["edit_s"] else 0.0}


def _stage(stage: int, edits: int, digest: str, committed: bool, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "stage": stage,
        "edits": edits,
        "state_digest": digest,
        "committed": committed,
        "metrics": dict(metrics),
    }


def _adapter(state: RunState, last: Commit | None) -> dict[str, Any]:
    if last is None or not adapter_files(last):
        return {"uri": "", "bytes": 0, "digest": last.state_digest if last else ""}
    size = sum(int(record["bytes"]) for record in last.files.values())
    return {"uri": state.adapter_uri(last), "bytes": size, "digest": last.state_digest}
