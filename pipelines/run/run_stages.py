"""The stages of a run by the loop that its strategy asks for: one after another, or each on the unedited model."""

from __future__ import annotations

from elder.pipelines.run.isolated_loop import IsolatedLoop
from elder.pipelines.run.known import ask_base, asks_first
from elder.pipelines.run.spec import Event, EventHandler, RunSpec
from elder.pipelines.run.stage_loop import Proceed, StageLoop
from elder.runtime import Runtime


def run_stages(job: RunSpec, runtime: Runtime, report: EventHandler, proceed: Proceed | None = None) -> None:
    """Bring the run to its last stage, from wherever it is committed. Collective.

    Where `data.known` is set and the base model has not been asked yet, this is all that is done.

    Args:
        job: The run.
        runtime: This process, or this rank of a group.
        report: Called on rank 0 only.
        proceed: Asked on rank 0 only, once for every stage in order, those committed before included; when it says
            no, all ranks end the run behind that stage. May block: all ranks wait with it.

    Raises:
        GateError: A gate refused a stage; the stages before it stay committed.
        ElderError: See `pipelines.run.commits`; or the ranks disagree about the state.
    """
    report = report if runtime.rank == 0 else silence
    if asks_first(job):
        ask_base(job, runtime, report)
        return
    loop = IsolatedLoop if job.config.stream.strategy == "isolated" else StageLoop
    loop(job, runtime, report, proceed).run()


def silence(event: Event) -> None:
    """Ranks other than 0 say nothing, and those whose commits speak for them."""
