"""The config of the training of an editor: which facts, how many blocks, how often a checkpoint is committed.

A checkpoint is a stage, so a resolved config looks to the stage loop like that of a run (`pipelines.config.base`).
Imports no torch. Knows nothing of how an editor is trained; its options are checked by `elder.registry`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from elder.datasets.fields import TARGETS
from elder.errors import ConfigError
from elder.pipelines.config.checks import RUN_ID, credential_problems, plain
from elder.pipelines.config.files import parse_document, read_document
from elder.pipelines.config.run import flatten, fresh_run_id
from elder.pipelines.config.schema import Document, build, setting, suggestion
from elder.pipelines.config.sections import (
    ClusterConfig,
    EditorConfig,
    EvaluationConfig,
    ModelConfig,
    StreamConfig,
    TrackingConfig,
)
from elder.registry import TRAINABLE, make_training

SECTION = "training"
SCORES = ("ES", "GS", "LS", "agreement")
NEUTRAL = ("name", "run_id", "cluster", "tracking", "data.path", "validation.path", "model.device")


@dataclass(frozen=True)
class TrainingDataConfig:
    """The facts that the editor is trained on."""

    source: str = setting("world:small", "A named dataset (`elder ls datasets`), `jsonl`, or `hub:NAME`.")
    path: str | None = setting(None, "The file of sources that need one.")
    edits: int | None = setting(None, "How many facts to take; `null` takes all.", low=1)
    skip: int = setting(
        0, "Facts at the beginning that are left to others, such as edits that the editor is to be tested on.", low=0
    )
    target: str = setting(
        "answer",
        "zsRE and FEVER: which answer is inserted, the true one (`answer`) or the counterfactual one (`alt`).",
        choices=TARGETS,
    )


@dataclass(frozen=True)
class ValidationConfig:
    """The facts that every checkpoint is measured on; they are never trained on."""

    source: str | None = setting(None, "As `data.source`; `null` holds out the last facts of the training data.")
    path: str | None = setting(None, "The file of sources that need one.")
    edits: int | None = setting(100, "How many facts are measured; `null`, with a source of its own: all.", low=1)
    block_size: int | None = setting(None, "Facts edited together when measuring; `null`: as in training.", low=1)


@dataclass(frozen=True)
class TrainingSection:
    """How long the training takes, and what of it is kept."""

    steps: int = setting(100, "Blocks of `editor.n_edits` facts that are trained on, one a step.", low=1)
    checkpoint_every: int = setting(20, "Steps between two checkpoints; each is measured, then committed.", low=1)
    choose: str = setting(
        "last",
        "Which checkpoint is the trained editor: the last, or the one with the highest mean of ES, GS and LS.",
        choices=("last", "best"),
    )


@dataclass(frozen=True)
class TrainConfig:
    """A whole training, resolved."""

    name: str = setting("editor", "Human name of the training.")
    run_id: str = setting("", "Names the training for ever; left out: a fresh id. Given again: it is continued.")
    seed: int = setting(0, "Seed of the order of facts and of the network.", low=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    training: TrainingSection = field(default_factory=TrainingSection)
    editor: EditorConfig = field(default_factory=lambda: EditorConfig("malmen"))
    gates: Mapping[str, float] = setting(
        dict, "Least ES, GS, LS or agreement, such as `ES: 0.5`, for a checkpoint to be committed; else exit code 4."
    )
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not self.run_id:
            object.__setattr__(self, "run_id", fresh_run_id(self.name))

    @property
    def block_size(self) -> int:
        """Facts of a block."""
        return int(self.editor.options["n_edits"])

    @property
    def stream(self) -> StreamConfig:
        """A stage is all that is between two checkpoints, a batch is a block."""
        return StreamConfig(stage_size=self.block_size * self.training.checkpoint_every, batch_size=self.block_size)

    @property
    def evaluation(self) -> EvaluationConfig:
        """Nothing of what an edit run measures: checkpoints are measured on the validation facts."""
        return EvaluationConfig(protocols=("forced",), parts=(), probes=0)

    def editor_options(self) -> Any:
        """The typed training options of the method."""
        return make_training(self.editor.method, {**self.editor.options, "seed": self.seed})

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files, the method's options beside `method`."""
        values = dataclasses.asdict(self)
        values["editor"] = {"method": self.editor.method, **values["editor"]["options"]}
        return plain(values)  # type: ignore[no-any-return]

    def dump_yaml(self) -> str:
        """The resolved config as YAML; `parse_train_config` reads it back."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def _kept(self) -> dict[str, Any]:
        found = flatten(self.to_dict())
        return {k: v for k, v in found.items() if not any(k == n or k.startswith(f"{n}.") for n in NEUTRAL)}

    def digest(self) -> str:
        """sha256 of everything that can change the trained editor; left out is `NEUTRAL`."""
        return hashlib.sha256(json.dumps(self._kept(), sort_keys=True).encode()).hexdigest()

    def changed_since(self, text: str, source: str) -> list[str]:
        """What is not as in the config that a training left in its store: one line for each key.

        Raises:
            ConfigError: The text is no config of a training.
        """
        before, now = parse_train_config(text, source)._kept(), self._kept()
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return [f"{key}: {json.dumps(before.get(key))} -> {json.dumps(now.get(key))}" for key in keys]


def load_train_config(path_or_name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """As `pipelines.config.run.load_config`, for a training: `train/malmen_world` with `training.steps=50`.

    Raises:
        ConfigError: Everything that is wrong, at once, each with file, line and key.
    """
    return resolve_training(read_document(path_or_name, overrides))


def parse_train_config(text: str, source: str = "config.yaml") -> TrainConfig:
    """Read the config of a training from YAML text, such as the one it left in its store.

    Raises:
        ConfigError: As `load_train_config`.
    """
    return resolve_training(parse_document(text, source))


def resolve_training(document: Document) -> TrainConfig:
    """Check a document against the schema and fill in the defaults.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    if SECTION not in document.values:
        raise ConfigError(
            f"{document.source}: has no section '{SECTION}', so there is nothing to train; run it with `elder edit`, "
            "or add `training: {steps: ...}`"
        )
    problems: list[str] = []
    values = dict(document.values)
    editor = _editor(values.pop("editor", None), document, problems)
    gates = values.pop("gates", None)
    config = build(TrainConfig, values, document, problems)
    config = dataclasses.replace(config, editor=editor, gates=_gates(gates, document, problems))
    problems += [f"{document.at(key)}: {text}" for key, text in _contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


def _editor(given: Any, document: Document, problems: list[str]) -> EditorConfig:
    """The `editor` section: a method that can be trained, and the options of its training."""
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"{document.at('editor')}: expected a section of keys, found {given!r}")
        given = None
    options = dict(given or {})
    method = options.pop("method", "malmen")
    if method not in TRAINABLE:
        known = ", ".join(TRAINABLE)
        hint = suggestion(str(method), TRAINABLE) or f" (known: {known})"
        problems.append(f"{document.at('editor.method')}: '{method}' is not trained{hint}")
        method, options = "malmen", {}
    if "seed" in options:
        problems.append(f"{document.at('editor.seed')}: is set by 'seed', not here")
        options.pop("seed")
    try:
        typed = make_training(method, options)
    except ConfigError as error:
        problems += [f"{document.places.get(p.partition(':')[0], document.source)}: {p}" for p in error.problems]
        typed = make_training(method, {})
    names = [f.name for f in dataclasses.fields(typed) if f.name != "seed"]
    return EditorConfig(method, plain({name: getattr(typed, name) for name in names}))


def _gates(given: Any, document: Document, problems: list[str]) -> dict[str, float]:
    """Gates by the full names of the metrics."""
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"{document.at('gates')}: expected a section of keys, found {given!r}")
        given = None
    found: dict[str, float] = {}
    for name, bound in flatten(given or {}).items():
        score = name.removeprefix("validation.")
        if score not in SCORES:
            problems.append(f"{document.at(f'gates.{name}')}: no such gate (known: {', '.join(SCORES)})")
        elif isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound <= 1:
            problems.append(f"{document.at(f'gates.{name}')}: expected a share from 0 to 1, found {bound!r}")
        else:
            found[f"validation.{score}"] = float(bound)
    return found


def _contradictions(config: TrainConfig) -> list[tuple[str, str]]:
    """Keys whose values do not go together, with what to do."""
    secret = credential_problems(config)
    if secret:
        return secret
    found = []
    data, own, cluster, tracking = config.data, config.validation, config.cluster, config.tracking
    if not RUN_ID.match(config.run_id):
        found.append(("run_id", f"'{config.run_id}' must be letters, digits, '.', '_' or '-', at most 100"))
    if own.source is None and own.edits is None:
        found.append(("validation.edits", "say how many facts of the training data are held out"))
    if own.source is None and own.path is not None:
        found.append(("validation.path", "needs validation.source"))
    if data.edits is not None and data.edits - (own.edits or 0) * (own.source is None) < config.block_size:
        left = data.edits - (own.edits or 0) * (own.source is None)
        text = f"a block of {config.block_size} facts is more than the {left} that are trained on"
        found.append(("editor.n_edits", text))
    if cluster.workers == 0 and cluster.sharding in ("zero2", "zero3"):
        found.append(("cluster.sharding", f"{cluster.sharding} needs workers: set cluster.workers to 1 or more"))
    if tracking.register and not tracking.mlflow:
        found.append(("tracking.register", "needs tracking.mlflow: give a tracking server, or set register to null"))
    if tracking.s3.endpoint_url and not tracking.store.startswith("s3://"):
        found.append(("tracking.s3.endpoint_url", f"tracking.store is the directory '{tracking.store}', not s3://..."))
    return found
