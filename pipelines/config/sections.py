"""The sections of a run's config: every key a user may set, with its default, its limits and its help.

Knows nothing of files, of how sections go together (`pipelines.config.checks`) or of what the settings do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from elder.ability.tasks import NAMES as TASKS
from elder.metrics.questions import DEFAULT_PARTS, PARTS, PROTOCOLS
from elder.options.fields import (
    Count,
    Listed,
    Natural,
    NotNegative,
    OneOf,
    Positive,
    Settings,
    Switch,
    Text,
    setting,
)  # fmt: skip


class ModelConfig(Settings):
    """The base model, which is never changed."""

    source: Text = setting(
        "world:small",
        "`world:small` (embedded, trained on first use), a short name (`elder models`), a directory in hub layout, a "
        "`.gguf` file, or a hub id.",
    )
    revision: Text | None = setting(None, "Commit or branch of a hub model; give a commit for repeatable runs.")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "Number format of the base weights; adapters are float32."
    )
    device: Text = setting("auto", "`auto` takes GPUs where workers have them, otherwise the CPU.")


class DataPlace(Settings):
    """Where data come from."""

    source: Text = setting(
        "world:small", "A named dataset (`elder ls datasets`), `jsonl` for a file of edits, or `hub:NAME`."
    )
    path: Text | None = setting(
        None, "The file, .gz or not, of sources that need one (JSONL, or the dataset's format)."
    )
    edits: Count | None = setting(None, "How many edits to take; `null` takes all.")
    chat: Annotated[Literal["auto", "on", "off", "both"], Switch] = setting(
        "auto",
        "Whether prompts go through the chat template of the model's tokenizer, in training and measuring alike: "
        "`auto`: if it has one; `on`: it must have one; `off`: prompts are plain texts; `both`: as `on`, and each edit "
        "is trained and measured as a plain text too (`reliability.generate.plain`).",
    )
    system: Text | None = setting(None, "Text of a system message before each prompt; `null` sends none.")


class DataConfig(DataPlace):
    """Which edits, in which order."""

    order: Literal["given", "shuffled"] = setting("given", "Order of the stream; `shuffled` uses `seed`.")
    unusable: Literal["refuse", "skip"] = setting(
        "refuse",
        "Records that cannot be edited (broken, without a subject where the method needs one, longer than the "
        "context): stop before work starts, or leave them out and list them.",
    )
    known: bool = setting(
        False,
        "Take only facts whose old answer (`ground_truth`) the base model gives by itself, asked by the edit's prompt "
        "as the run asks. `data.edits` then counts those. The model is asked once, before the first stage.",
    )


class StreamConfig(Settings):
    """How the edits arrive."""

    stage_size: Count = setting(50, "Edits between two commits; each stage is measured, then committed.")
    batch_size: Count = setting(10, "Edits that the editor takes at once.")
    conflicts: Literal["refuse", "last_wins"] = setting(
        "refuse",
        "Two edits with the same prompt and different targets: stop before work starts, or keep the last one.",
    )
    strategy: Literal["stream", "isolated"] = setting(
        "stream",
        "`stream`: edits stay and the next come on top. `isolated`: every batch alone on the unedited model, measured "
        "right after and taken back (`batch_size: 1`: single edits); figures are kept, adapters are not.",
    )


class EditorConfig(Settings):
    """The method and its options. In YAML the options are beside `method`: `editor: {method: elder, rank: 8}`."""

    method: Text = setting("elder-plus", "Editing method by name (`elder ls methods`).")
    options: Mapping[str, Any] = setting({}, "Options of the method, all of them, defaults included.")


class AbilityConfig(Settings):
    """General ability, measured after every stage beside the unedited model (docs/metrics.md)."""

    tasks: Listed[Annotated[str, OneOf(TASKS)]] = setting((), "Tasks by name; none: ability is not measured.")
    path: Text | None = setting(
        None, "Folder with the files of the tasks, such as `gsm8k_test.jsonl`; `null`: `ability/` below ELDER_HOME."
    )
    items: Count | None = setting(100, "Records of each task, always the same ones; `null` takes all.")


class EvaluationConfig(Settings):
    """The measurement after every stage."""

    protocols: Listed[Annotated[str, OneOf(PROTOCOLS)]] = setting(
        PROTOCOLS,
        "`generate`: greedy free generation, exact match; `forced`: teacher-forced, every target token right.",
    )
    parts: Listed[Annotated[str, OneOf(PARTS)]] = setting(
        DEFAULT_PARTS,
        "Quantities measured after every stage. `same_subject`, `mention` and `name` are kinds of locality, `stale` "
        "looks for superseded answers, `after_answer` judges the text after the answer (docs/metrics.md).",
    )
    retention: Literal["all", "sample"] = setting(
        "all",
        "Earlier stages are measured again in full, or on a fixed sample; after the last stage always in full.",
    )
    retention_sample: Count = setting(50, "Edits of each earlier stage that `retention: sample` measures again.")
    max_new_tokens: Count = setting(16, "Longest answer under free generation, in tokens.")
    batch_size: Count = setting(64, "Prompts measured at once on each worker.")
    perplexity_text: Text | None = setting(
        None, "Text file whose perplexity is measured as an alarm; `null` takes the built-in text."
    )
    completions: bool = setting(
        False,
        "Where prompts go through a chat template: measure them as plain texts too (`reliability.generate.plain`).",
    )
    ability: AbilityConfig = setting(AbilityConfig(), "Tasks that have nothing to do with the edits.")
    probes: Natural = setting(3, "Edits whose answers are shown before and after at the end.")


KEPT_BELOW = 2**28
"""Under ZeRO-3, models of at most so many weights (1 GiB in float32) are whole while workers edit, measure and ask."""


class ClusterConfig(Settings):
    """Where the run lives. Nothing here changes its result."""

    address: Text = setting(
        "auto",
        "`auto`: the cluster that RAY_ADDRESS names, else a new local one; `local`: always a new one; or an address.",
    )
    workers: Natural = setting(1, "Ray workers; 0 runs in this process without Ray.")
    gpus_per_worker: NotNegative = setting(0.0, "GPUs of each worker.")
    cpus_per_worker: Positive = setting(1.0, "CPU cores that Ray reserves for each worker.")
    threads_per_worker: Count | None = setting(
        None, "Threads of torch in each worker; `null`: the cores of its node, shared by the workers there."
    )
    sharding: Literal["auto", "none", "zero2", "zero3"] = setting(
        "auto",
        "How the base model is held by the workers: whole (`none`), `zero2`, sharded (`zero3`), or `auto` by memory.",
    )
    wait_for_resources_s: Positive = setting(
        600.0, "Seconds for which the run waits for room for its workers; then it ends with exit code 3.", le=1e8
    )
    max_failures: Natural = setting(3, "Worker failures without a commit between them after which the run ends.")


class S3Config(Settings):
    """How to speak to an S3-compatible store; credentials come from the usual AWS places, never from here."""

    endpoint_url: Text | None = setting(None, "Address of an S3-compatible server; `null` is Amazon.")
    region: Text | None = setting(None, "Region; `null` uses the profile's.")
    addressing: Literal["auto", "path", "virtual"] = setting(
        "auto",
        "Bucket in the path or in the host name; servers of your own mostly need `path`.",
    )
    checksums: Literal["when_required", "when_supported"] = setting(
        "when_supported",
        "When the client adds checksums; older servers need `when_required`. Elder verifies sha256 in any case.",
    )
    profile: Text | None = setting(None, "Named profile of the AWS credentials file.")


class TrackingConfig(Settings):
    """Where the run is recorded. Nothing here changes its result."""

    mlflow: Text | None = setting("elder-runs/mlflow.db", "A sqlite file, a tracking server's URL, or `null` for none.")
    experiment: Text = setting("elder", "MLflow experiment.")
    store: Text = setting("elder-runs/store", "Where stages are committed: a directory or s3://bucket/prefix.")
    register_as: Text | None = setting(
        None, "Name under which the final adapter is registered in MLflow.", alias="register"
    )  # pydantic reserves `register` itself
    alias: Text | None = setting("candidate", "Alias that is set on the registered version.")
    retry_timeout_s: NotNegative = setting(
        120.0,
        "Seconds for which a run under way keeps asking a store or MLflow that does not answer.",
        le=1e8,
    )
    mlflow_limit_mb: NotNegative = setting(
        256.0,
        "An adapter above so many MiB stays in an s3:// store, and MLflow gets a pointer to it; `elder pull` and "
        "`mlflow.pyfunc.load_model` follow it.",
    )
    s3: S3Config = setting(S3Config(), "Settings of an s3:// store.")
