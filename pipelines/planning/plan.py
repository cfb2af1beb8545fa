"""A dry run: what a config would do, stage by stage, without touching model weights, cluster, store or tracker.

Pure: config and shape in, `Plan` out. Knows nothing of how it is printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from elder.errors import ConfigError
from elder.pipelines.config.run import RunConfig
from elder.pipelines.planning.memory import (
    MemoryEstimate,
    adapter_parameters,
    edited_blocks,
    estimate,
    formulas,
    recommend,
)
from elder.pipelines.planning.shapes import ModelShape, model_shape
from elder.pipelines.run.commits import ADAPTER_FILES, COMMIT, CONFIG, RECORD, RESULT
from elder.pipelines.run.driver_epochs import DRIVERS
from elder.pipelines.run.inputs import KNOWN_NOTE
from elder.pipelines.run.requirements import STATISTICS, check_text, needs_text
from elder.pipelines.run.stage_plan import StagePlan, split

STAGE_FILES = (*ADAPTER_FILES, "results.jsonl", "metrics.json")


@dataclass(frozen=True)
class Outline:
    """The part of a plan that follows from the config alone: a client without torch shows no more.

    Attributes:
        config: The resolved config.
        digest: Its digest.
        edits: Length of the stream; None when it is known only once the data are read.
        stages: The stages; one open stage when the length is unknown.
        keys: Keys below the store's root, where `{attempt}` is a fresh id of each attempt.
        notes: What the user should know before running.
    """

    config: RunConfig
    digest: str
    edits: int | None
    stages: tuple[StagePlan, ...]
    keys: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`."""
        tracking = self.config.tracking
        return {
            "run_id": self.config.run_id,
            "config_digest": self.digest,
            "config": self.config.to_dict(),
            "edits": self.edits,
            "stages": [asdict(stage) for stage in self.stages],
            "keys": list(self.keys),
            "store": tracking.store,
            "mlflow": {
                "tracking": tracking.mlflow,
                "experiment": tracking.experiment,
                "run": self.config.name,
                "register": tracking.register_as,
                "alias": tracking.alias if tracking.register_as else None,
            },
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Plan(Outline):
    """The content of `elder plan`.

    Attributes:
        shape: The base model.
        edited: Blocks that get an adapter.
        adapter_parameters: Trained parameters.
        memory: Estimates for none, zero2 and zero3.
        sharding: What `cluster.sharding` comes to.
        reason: Why.
    """

    shape: ModelShape
    edited: tuple[int, ...]
    adapter_parameters: int
    memory: tuple[MemoryEstimate, ...]
    sharding: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `--json`."""
        found = super().to_dict()
        notes = found.pop("notes")
        return {
            **found,
            "model": asdict(self.shape),
            "edited_blocks": list(self.edited),
            "adapter_parameters": self.adapter_parameters,
            "memory": [{**asdict(item), "total": item.total} for item in self.memory],
            "memory_formulas": list(formulas(self.config)),
            "sharding": {"use": self.sharding, "reason": self.reason},
            "notes": notes,
        }


def outline(config: RunConfig, edits: int | None = None) -> Outline:
    """Work out what follows from a config without the base model.

    Args:
        config: The resolved config.
        edits: How many edits the data hold, when they have been read; else `data.edits` is believed.
    """
    count = config.data.edits if edits is None else edits
    stages = split(count, config.stream.stage_size, config.stream.batch_size)
    keys = stage_keys(config.run_id, len(stages))
    if needs_text(config):
        keys += (f"{STATISTICS}/{{id}}.safetensors",)
    return Outline(config, config.digest(), count, stages, keys, tuple(_notes(config, edits)))


def plan(
    config: RunConfig,
    model_config: Any = None,
    *,
    edits: int | None = None,
    memory_per_worker: int | None = None,
    shape: ModelShape | None = None,
) -> Plan:
    """Work out what a run would do.

    Args:
        config: The resolved config.
        model_config: A transformers config of the base model, when one is at hand; else it is looked up.
        edits: How many edits the data hold, when they have been read; else `data.edits` is believed.
        memory_per_worker: Bytes of each worker's device, for the choice of sharding.
        shape: Of the base model, when it is known already.

    Raises:
        ModelError: The base model's config cannot be found.
        ConfigError: An edited block does not exist.
    """
    check_text(config)
    shape = shape or model_shape(config.model.source, config.model.revision, model_config)
    edited = edited_blocks(config, shape)
    if edited and edited[-1] >= shape.blocks:
        raise ConfigError(f"editor.layers: the model has blocks 0 to {shape.blocks - 1}, there is no {edited[-1]}")
    memory = estimate(config, shape)
    sharding, reason = recommend(memory, config.cluster.workers, memory_per_worker)
    if config.cluster.sharding != "auto":
        if config.cluster.sharding != sharding:
            reason = f"cluster.sharding says so; `auto` would take {sharding}: {reason}"
        sharding = config.cluster.sharding
    known = outline(config, edits)
    return Plan(
        config=config,
        digest=known.digest,
        edits=known.edits,
        stages=known.stages,
        keys=known.keys,
        notes=(*known.notes, *_notes_on_size(config, shape)),
        shape=shape,
        edited=edited,
        adapter_parameters=adapter_parameters(config, shape),
        memory=memory,
        sharding=sharding,
        reason=reason,
    )


def stage_keys(run_id: str, stages: int) -> tuple[str, ...]:
    """The keys that a run writes below its store's root; `pipelines.run.commits` says what they hold."""
    root = f"runs/{run_id}"
    keys = [f"{root}/{CONFIG}", f"{root}/{RECORD}", f"{root}/{DRIVERS}/000001.json"]
    for stage in range(stages):
        folder = f"{root}/stages/{stage:06d}"
        keys += [f"{folder}/{{attempt}}/{name}" for name in STAGE_FILES] + [f"{folder}/{COMMIT}"]
    return (*keys, f"{root}/{RESULT}", f"{root}/report/")


def _notes(config: RunConfig, edits: int | None) -> list[str]:
    notes = []
    if edits is None:
        notes.append("the data have not been read: stages follow from data.edits, fewer edits make fewer stages")
    if config.data.edits is None and edits is None:
        notes.append("data.edits is not set: the number of stages is known once the data are read")
    if config.data.known:
        notes.append(KNOWN_NOTE)
    if config.cluster.sharding == "zero2":
        notes.append("zero2 partitions gradients and moments of trained weights; with a frozen base it equals none")
    return notes


def _notes_on_size(config: RunConfig, shape: ModelShape) -> list[str]:
    if config.cluster.workers > 0 and config.cluster.gpus_per_worker == 0 and shape.parameters > 5 * 10**8:
        size = f"{shape.parameters / 1e9:.1f} billion parameters"
        return [f"{size} without GPUs will be slow: cluster.gpus_per_worker=1"]
    return []
