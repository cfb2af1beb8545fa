"""The training of an editor: blocks of facts in; committed, measured checkpoints and a registered trained editor out.

The stages, workers, store and tracker of an edit run (`pipelines.run.driver`); here is where a training differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from elder.pipelines.cluster.runners import choose_runner
from elder.pipelines.config.training import TrainConfig
from elder.pipelines.planning.memory import estimate, recommend
from elder.pipelines.planning.shapes import model_shape
from elder.pipelines.planning.sharding import worker_memory
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.commits import Commit
from elder.pipelines.run.driver import Driver, Runner, drive
from elder.pipelines.run.inputs import read_tokenizer
from elder.pipelines.run.result import make_result
from elder.pipelines.run.spec import EventHandler, RunSpec, WorkerParts
from elder.pipelines.run.trained import chosen_checkpoint
from elder.pipelines.training.data import Blocks, TrainingData, read_training
from elder.pipelines.training.job import TrainingKit


def run_training(
    config: TrainConfig,
    store_factory: Callable[[], Store],
    tracker: Tracker,
    on_event: EventHandler = lambda event: None,
    *,
    cache_dir: Path | None = None,
    data: TrainingData | None = None,
    tags: Mapping[str, str] | None = None,
    kit: WorkerParts | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Train an editor to its last checkpoint, from wherever it is committed.

    Args:
        config: The resolved config. A run id that exists is continued, if config and facts are the same.
        store_factory: This and all that is not named here: as `pipelines.edit.driver.run_edit`.
        tracker: As there.
        on_event: Receives the events of an edit run; a stage is a checkpoint.
        cache_dir: As there.
        data: The facts, when they have been read and checked already.
        tags: As there.
        kit: As there.
        runner: As there.

    Returns:
        The result of an edit run, with `kind` "training", `method`, and `chosen`, the checkpoint that is the trained
        editor; `adapter` and `registered` are that checkpoint's.

    Raises:
        ElderError: As `pipelines.edit.driver.run_edit`.
    """
    found = read_training(config, *read_tokenizer(config, cache_dir)) if data is None else data
    job = RunSpec(
        config=config,
        edits=found.blocks,
        store_factory=store_factory,
        sharding=recommended_sharding(config)[0],
        cache_dir=cache_dir,
        kit=kit or TrainingKit(),
        validation=found.validation,
        data_digest=found.digest,
    )
    return drive(job, tracker, on_event, tags or {}, runner or choose_runner(config), TrainingDriver)


def recommended_sharding(config: TrainConfig, available: int | None = None) -> tuple[str, str]:
    """`cluster.sharding`, with `auto` decided by the memory that the training needs, and why.

    Args:
        config: The resolved config.
        available: Bytes of each worker's device; None: of this machine's, if workers have such.
    """
    cluster = config.cluster
    if cluster.workers == 0:
        return "none", "one process has nobody to share the model with"
    if cluster.sharding != "auto":
        return cluster.sharding, "cluster.sharding says so"
    memory = estimate(config, model_shape(config.model.source, config.model.revision))
    return recommend(memory, cluster.workers, worker_memory(config) if available is None else available)


class TrainingDriver(Driver):
    """The driver of a training, where it differs from that of an edit run."""

    def outcome(self, commits: Sequence[Commit]) -> Commit:
        """The checkpoint that is the trained editor."""
        return chosen_checkpoint(commits, cast(TrainConfig, self.config).training.choose)

    def dataset(self) -> dict[str, Any]:
        """The facts, each counted once."""
        blocks = cast(Blocks, self.job.edits)
        return {**super().dataset(), "count": len(blocks.facts)}

    def tags(self) -> dict[str, str]:
        """Marked as a training."""
        return {**super().tags(), "elder.kind": "training"}

    def result(self, registered: Mapping[str, Any] | None) -> dict[str, Any]:
        """The result, with the chosen checkpoint's figures at the end."""
        result = make_result(self.job, self.state, registered, self.refused)
        commits = self.state.commits()
        result |= {"kind": "training", "method": self.config.editor.method, "chosen": None}
        if not commits:
            return result
        chosen = self.outcome(commits)
        size = sum(int(record["bytes"]) for record in chosen.files.values())
        adapter = {"uri": self.state.adapter_uri(chosen), "bytes": size, "digest": chosen.state_digest}
        return result | {"chosen": chosen.stage, "final": dict(chosen.metrics), "adapter": adapter}

    def write_report(self, directory: Path, result: Mapping[str, Any], commits: Sequence[Commit]) -> None:
        """Checkpoints, curves and config."""
        from elder.pipelines.training.report import write_training_report

        losses = [float(loss) for commit in commits for curve in commit.losses for loss in curve]
        write_training_report(directory, result, losses, self.config.name, self.config.dump_yaml())
