"""One run as it travels from the driver to its workers, and how workers make their parts.

Plain data and picklable factories; heavy imports happen where a part is made. Knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from elder.base import Base, Editor
from elder.edit import Edit, dataset_digest
from elder.errors import AdapterError, AdapterFileError, ElderError
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import ADAPTER_FILES
from elder.pipelines.run.known_record import KnownRecord
from elder.pipelines.run.retry import RetryingStore
from elder.pipelines.run.stage_plan import StagePlan, split
from elder.pipelines.run.trained import TrainedPin, trained_directory
from elder.runtime import Runtime

if TYPE_CHECKING:
    from elder.ability.item import Item
    from elder.targets.statistics import Windows

Event = Mapping[str, Any]
"""What happens, with a "kind"; see docs/reliability.md."""

EventHandler = Callable[[Event], None]
"""Where events go; must be cheap and must not fail."""


class WorkersFailed(ElderError):
    """The workers died more often than `cluster.max_failures` allows."""


class Measurement(Protocol):
    """The part of `elder.metrics.report.EventHandler` that a stage uses."""

    @property
    def metrics(self) -> dict[str, float]:
        """Figures by name."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each edit, in the order asked."""


class Measuring(Protocol):
    """The part of `elder.metrics.evaluator.Evaluator` that a stage uses."""

    def measure(
        self,
        edits: Sequence[Edit],
        parts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        so_far: Sequence[Edit] | None = None,
    ) -> Measurement:
        """Measure the editor as it is now; `so_far` is the stream so far, if `edits` are not all of it."""


class Assessing(Protocol):
    """The part of `elder.ability.measure.AbilityMeter` that a stage uses."""

    def figures(self, progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Metrics of the editor as it is now, and of the unedited model."""


@dataclass(frozen=True)
class WorkerParts:
    """How a worker makes its parts. Tests hand in others; everything must be picklable."""

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        """Load the base model; what is made on first use is made by one rank of each machine, the others wait."""
        from elder.models.load import load_base, resolve_source

        model = job.config.model
        if job.local_rank == 0:
            resolve_source(model.source, job.cache_dir)
        runtime.barrier()
        return load_base(
            model.source,
            revision=model.revision,
            dtype=model.dtype,
            runtime=runtime,
            cache_dir=job.cache_dir,
            chat=job.config.data.chat,
            system=job.config.data.system,
        )

    def editor(self, job: RunSpec, base: Base) -> Editor:
        """A fresh editor of the config's method."""
        from elder.registry import editor_class

        with trained_directory(job.config, job.store_factory, job.trained) as trained:
            options = job.config.editor_options()
            if trained is not None:
                from elder.hyper.trained import adopt, load_trained

                options = adopt(options, load_trained(trained))
            editor = editor_class(job.config.editor.method)(base, options)
            if trained is not None:
                editor.use_trained(trained)
        if hasattr(editor, "moments"):  # it takes statistics: all runs on this store share them
            from elder.pipelines.run.statistics_store import StoreMoments

            store = RetryingStore(job.store_factory(), job.config.tracking.retry_timeout_s, lambda _: None)
            editor.moments, editor.windows = StoreMoments(store), job.windows
        return editor  # type: ignore[no-any-return]

    def meter(self, job: RunSpec, editor: Editor) -> Measuring:
        """The evaluator of the config."""
        from elder.metrics.evaluator import Evaluator

        wanted = job.config.evaluation
        return Evaluator(
            editor,
            wanted.protocols,
            wanted.max_new_tokens,
            wanted.batch_size,
            job.perplexity_text,
            wanted.completions,
        )

    def ability(self, job: RunSpec, editor: Editor) -> Assessing | None:
        """What measures general ability, if tasks are asked for."""
        if not job.ability:
            return None
        from elder.ability.measure import AbilityMeter

        return AbilityMeter(editor, job.ability, job.config.evaluation.batch_size, job.cache_dir)

    def save(self, directory: Path, editor: Editor, extra: Mapping[str, Any]) -> None:
        """Write the adapter directory of the editor's state."""
        from elder.adapter_files import save_adapter

        save_adapter(directory, editor, extra=dict(extra))

    def kept(self) -> tuple[str, ...]:
        """The files of a committed stage that a continuation needs."""
        return ADAPTER_FILES

    def restore(self, directory: Path, editor: Editor) -> None:
        """Put an editor into the state that those files hold."""
        from elder.chat import chat_record, in_words
        from elder.tensor_files import read_tensors

        made, now = committed_manifest(directory).get("chat"), chat_record(editor.base.chat)
        if made != now:
            raise AdapterError(
                f"the committed edits were made with {in_words(made)}, this run has {in_words(now)}; set data.chat "
                "and data.system as they were, or begin a new run"
            )
        editor.load_state_dict(read_tensors(directory / ADAPTER_FILES[0]))


def committed_manifest(directory: Path) -> dict[str, Any]:
    """The manifest among the fetched files of a stage.

    Raises:
        AdapterFileError: It is no JSON.
    """
    from elder.json_text import JsonError, parse_json

    path = directory / ADAPTER_FILES[1]
    try:
        return dict(parse_json(path.read_bytes()))
    except JsonError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}") from error


@dataclass(frozen=True)
class RunSpec:
    """One run as it travels to the workers.

    Attributes:
        config: The resolved config.
        edits: The whole stream, validated.
        store_factory: Makes a `Store` inside a worker.
        sharding: `none`, `zero2` or `zero3`, decided.
        cache_dir: Where the embedded model is kept.
        perplexity_text: Text for the perplexity alarm; None takes the built-in one.
        ability: Items of the ability tasks, by the name of their task.
        kit: How parts are made.
        local_rank: Rank on this machine; set by the runner inside the worker.
        claim: Number of the driver among those of the run; an older one must stop. 0: there is no other.
        validation: What is measured after every stage, when that is not the edits of the stream themselves.
        data_digest: Digest of the data, when the stream is made from them.
        trained: The trained editor that the run was begun with.
        skipped: Records that were left out of the stream, each with its place and why.
        known: Which facts of the data the base model knows, where only those are edited; None: not asked yet.
        unknown: The facts that it does not know, each with what it says.
        windows: Text of the method's statistics, cut into rows; None: rank 0 reads it if the method needs one.
    """

    config: StagedConfig
    edits: Sequence[Edit]
    store_factory: Callable[[], Store]
    sharding: str = "none"
    cache_dir: Path | None = None
    perplexity_text: str | None = None
    ability: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    kit: WorkerParts = field(default_factory=WorkerParts)
    local_rank: int = 0
    claim: int = 0
    validation: Sequence[Edit] | None = None
    data_digest: str = ""
    trained: TrainedPin | None = None
    windows: Windows | None = None
    skipped: Sequence[str] = ()
    known: KnownRecord | None = None
    unknown: Sequence[str] = ()

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """The stages of the stream."""
        return split(len(self.edits), self.config.stream.stage_size, self.config.stream.batch_size)

    @property
    def dataset(self) -> str:
        """Digest of the data."""
        return self.data_digest or dataset_digest(self.edits)
