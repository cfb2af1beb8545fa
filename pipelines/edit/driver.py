"""The main job: a stream of edits in, a committed, measured and registered adapter out.

Wires the parts together: data, run record, runner, tracker, report. Must not know boto3, mlflow or the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.edit import Edit
from elder.pipelines.cluster.runners import choose_runner
from elder.pipelines.config.run import RunConfig
from elder.pipelines.pages.run_report import write_report
from elder.pipelines.planning.sharding import decide_sharding
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.commits import Commit
from elder.pipelines.run.driver import Driver, Runner, drive
from elder.pipelines.run.inputs import left_out, read_ability, read_stream, read_text, read_tokenizer, skipped_of
from elder.pipelines.run.requirements import needs_text, read_windows
from elder.pipelines.run.spec import EventHandler, RunSpec, WorkerParts


def run_edit(
    config: RunConfig,
    store_factory: Callable[[], Store],
    tracker: Tracker,
    on_event: EventHandler = lambda event: None,
    *,
    cache_dir: Path | None = None,
    edits: Sequence[Edit] | None = None,
    tags: Mapping[str, str] | None = None,
    kit: WorkerParts | None = None,
    runner: Runner | None = None,
    windows: Any = None,
) -> dict[str, Any]:
    """Run a lifelong edit stream to its end, from wherever it is committed.

    Args:
        config: The resolved config. A run id that exists is continued, if config and edits are the same.
        store_factory: Picklable; makes the store, here and inside workers.
        tracker: The record of runs.
        on_event: Receives events for a display, see docs/reliability.md; called from other threads.
        cache_dir: Where the embedded model is kept.
        edits: The stream, when it has been read and checked already; default: the config's data.
        tags: Further tags for the tracked run, such as the id of a Ray job.
        kit: How workers make their parts; for tests.
        runner: Runs a job; default: Ray Train, or this process when `cluster.workers` is 0.
        windows: The text of the statistics, when it has been read already.

    Returns:
        The result in the layout of docs/design.md, section 3. A run that has ended returns it at once.

    Raises:
        InputError: Config, data or model are wrong, or the run id belongs to another config; nothing was started.
        StageRefused: A gate refused a stage.
        UnreachableError: Cluster, store or tracker does not answer; committed stages stand.
        RunTakenOver: Another driver of the same run was started after this one.
        ElderError: The job failed; committed stages stand.
    """
    stream = read_stream(config, cache_dir) if edits is None else edits
    skipped = skipped_of(stream)
    if skipped:
        on_event({"kind": "note", "text": left_out(skipped)})
    if windows is None and needs_text(config):
        windows = read_windows(config, *read_tokenizer(config, cache_dir))
    job = RunSpec(
        config=config,
        edits=tuple(stream),
        store_factory=store_factory,
        sharding=decide_sharding(config),
        cache_dir=cache_dir,
        perplexity_text=read_text(config),
        ability=read_ability(config, cache_dir),
        kit=kit or WorkerParts(),
        windows=windows,
        skipped=skipped,
    )
    return drive(job, tracker, on_event, tags or {}, runner or choose_runner(config), EditDriver)


class EditDriver(Driver):
    """The driver of an edit run."""

    def write_report(self, directory: Path, result: Mapping[str, Any], commits: Sequence[Commit]) -> None:
        """Write the report of a run that has ended into a directory."""
        rows = self.state.read_rows(commits[-1])
        write_report(
            directory,
            result,
            rows,
            title=self.config.name,
            examples=_examples(rows),
            losses=[list(curve) for commit in commits for curve in commit.losses],
            config=self.config.dump_yaml(),
            retention_of=f"reliability.{self.config.evaluation.protocols[0]}",
        )


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows for which the unedited model was asked too."""
    return [{**row, "after": row["reliability.generate.text"]} for row in rows if "before" in row]
