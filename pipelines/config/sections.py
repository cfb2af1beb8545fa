"""The sections of a run's config: every key a user may set, with its default, its limits and its help.

Knows nothing of files, of how sections go together (`pipelines.config.checks`) or of what the settings do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elder.metrics.questions import DEFAULT_PARTS, PARTS, PROTOCOLS
from elder.pipelines.config.schema import setting


@dataclass(frozen=True)
class ModelConfig:
    """The base model, which is never changed."""

    source: str = setting(
        "world:small", "`world:small` (embedded, trained on first use), a directory in hub layout, or a hub id."
    )
    revision: str | None = setting(None, "Commit or branch of a hub model; give a commit for repeatable runs.")
    dtype: str = setting(
        "float32", "Number format of the base weights; adapters are float32.", choices=("float32", "bfloat16")
    )
    device: str = setting("auto", "`auto` takes GPUs where workers have them, otherwise the CPU.")


@dataclass(frozen=True)
class DataConfig:
    """Which edits, in which order."""

    source: str = setting(
        "world:small", "A named dataset (`elder ls datasets`), `jsonl` for a file of edits, or `hub:NAME`."
    )
    path: str | None = setting(None, "The file, .gz or not, of sources that need one (JSONL, or the dataset's format).")
    edits: int | None = setting(None, "How many edits to take; `null` takes all.", low=1)
    order: str = setting("given", "Order of the stream; `shuffled` uses `seed`.", choices=("given", "shuffled"))


@dataclass(frozen=True)
class StreamConfig:
    """How the edits arrive."""

    stage_size: int = setting(50, "Edits between two commits; each stage is measured, then committed.", low=1)
    batch_size: int = setting(10, "Edits that the editor takes at once.", low=1)
    conflicts: str = setting(
        "refuse",
        "Two edits with the same prompt and different targets: stop before work starts, or keep the last one.",
        choices=("refuse", "last_wins"),
    )
    strategy: str = setting(
        "stream",
        "`stream`: edits stay and the next come on top. `apart`: every batch alone on the unedited model, measured "
        "right after and taken back (`batch_size: 1`: single edits); figures are kept, adapters are not.",
        choices=("stream", "apart"),
    )


@dataclass(frozen=True)
class EditorConfig:
    """The method and its options. In YAML the options stand beside `method`: `editor: {method: elder, rank: 8}`."""

    method: str = setting("elder-plus", "Editing method by name (`elder ls methods`).")
    options: Mapping[str, Any] = setting(dict, "Options of the method, all of them, defaults included.")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured after every stage."""

    protocols: tuple[str, ...] = setting(
        lambda: PROTOCOLS,
        "`generate`: greedy free generation, exact match; `forced`: teacher-forced, every target token right.",
        choices=PROTOCOLS,
    )
    parts: tuple[str, ...] = setting(lambda: DEFAULT_PARTS, "Quantities measured after every stage.", choices=PARTS)
    retention: str = setting(
        "all",
        "Earlier stages are measured again in full, or on a fixed sample; after the last stage always in full.",
        choices=("all", "sample"),
    )
    retention_sample: int = setting(50, "Edits of each earlier stage that `retention: sample` measures again.", low=1)
    max_new_tokens: int = setting(16, "Longest answer under free generation, in tokens.", low=1)
    batch_size: int = setting(64, "Prompts measured at once on each worker.", low=1)
    perplexity_text: str | None = setting(
        None, "Text file whose perplexity is measured as an alarm; `null` takes the built-in text."
    )
    probes: int = setting(3, "Edits whose answers are shown before and after at the end.", low=0)


@dataclass(frozen=True)
class ClusterConfig:
    """Where the run lives. Nothing here changes its result."""

    address: str = setting(
        "auto",
        "`auto`: the cluster that RAY_ADDRESS names, else a new local one; `local`: always a new one; or an address.",
    )
    workers: int = setting(1, "Ray workers; 0 runs in this process without Ray.", low=0)
    gpus_per_worker: float = setting(0.0, "GPUs of each worker.", low=0)
    cpus_per_worker: float = setting(1.0, "CPU cores that Ray reserves for each worker.", above=0)
    threads_per_worker: int | None = setting(
        None, "Threads of torch in each worker; `null`: the cores of its node, shared by the workers there.", low=1
    )
    sharding: str = setting(
        "auto",
        "How the base model lies on the workers: whole (`none`), `zero2`, sharded (`zero3`), or `auto` by memory.",
        choices=("auto", "none", "zero2", "zero3"),
    )
    patience_s: float = setting(
        600.0, "Seconds for which the run waits for room for its workers; then it ends with exit code 3.", above=0
    )
    max_failures: int = setting(3, "Worker failures without a commit between them after which the run ends.", low=0)


@dataclass(frozen=True)
class S3Config:
    """How to speak to an S3-compatible store; credentials come from the usual AWS places, never from here."""

    endpoint_url: str | None = setting(None, "Address of an S3-compatible server; `null` is Amazon.")
    region: str | None = setting(None, "Region; `null` uses the profile's.")
    addressing: str = setting(
        "auto",
        "Bucket in the path or in the host name; servers of your own mostly need `path`.",
        choices=("auto", "path", "virtual"),
    )
    checksums: str = setting(
        "when_supported",
        "When the client adds checksums; older servers need `when_required`. Elder verifies sha256 anyhow.",
        choices=("when_required", "when_supported"),
    )
    profile: str | None = setting(None, "Named profile of the AWS credentials file.")


@dataclass(frozen=True)
class TrackingConfig:
    """Where the run is recorded. Nothing here changes its result."""

    mlflow: str | None = setting("elder-runs/mlflow.db", "A sqlite file, a tracking server's URL, or `null` for none.")
    experiment: str = setting("elder", "MLflow experiment.")
    store: str = setting("elder-runs/store", "Where stages are committed: a directory or s3://bucket/prefix.")
    register: str | None = setting(None, "Name under which the final adapter is registered in MLflow.")
    alias: str | None = setting("candidate", "Alias that is set on the registered version.")
    patience_s: float = setting(
        120.0, "Seconds for which a run under way keeps asking a store or MLflow that does not answer.", low=0
    )
    mlflow_limit_mb: float = setting(
        256.0,
        "An adapter above so many MiB stays in an s3:// store, and MLflow gets a pointer to it; `elder pull` and "
        "`mlflow.pyfunc.load_model` follow it.",
        low=0,
    )
    s3: S3Config = field(default_factory=S3Config, metadata={"help": "Settings of an s3:// store."})
