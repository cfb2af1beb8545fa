"""The config of the training of an editor: which facts, how many blocks, how often a checkpoint is committed.

A checkpoint is a stage, so a resolved config looks to the stage loop like that of a run (`pipelines.config.base`).
Imports no torch. Knows nothing of how an editor is trained; its options are checked by `elder.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from elder.datasets.fields import TARGETS
from elder.errors import ConfigError
from elder.options.fields import Count, Natural, OneOf, Settings, Text, setting
from elder.options.messages import found
from elder.pipelines.config.base import StagedConfig, diff, flatten
from elder.pipelines.config.checks import build_editor, common_contradictions
from elder.pipelines.config.document import Document, build
from elder.pipelines.config.files import readers
from elder.pipelines.config.sections import (
    ClusterConfig,
    DataPlace,
    EditorConfig,
    EvaluationConfig,
    ModelConfig,
    StreamConfig,
    TrackingConfig,
)
from elder.registry import make_training

SECTION = "training"
SCORES = ("ES", "GS", "LS", "agreement")
METHOD = "malmen"  # what is trained where a config does not say


class TrainingDataConfig(DataPlace):
    """The facts that the editor is trained on."""

    edits: Count | None = setting(None, "How many facts to take; `null` takes all.")
    skip: Natural = setting(
        0, "Facts at the beginning that are left to others, such as edits that the editor is to be tested on."
    )
    target: Annotated[str, OneOf(TARGETS)] = setting(
        "answer",
        "zsRE and FEVER: which answer is inserted, the true one (`answer`) or the counterfactual one (`alt`).",
    )


class ValidationConfig(Settings):
    """The facts that every checkpoint is measured on; they are never trained on."""

    source: Text | None = setting(None, "As `data.source`; `null` holds out the last facts of the training data.")
    path: Text | None = setting(None, "The file of sources that need one.")
    edits: Count | None = setting(100, "How many facts are measured; `null`, with another source: all.")
    block_size: Count | None = setting(None, "Facts edited together when measuring; `null`: as in training.")


class TrainingSection(Settings):
    """How long the training takes, and what of it is kept."""

    steps: Count = setting(100, "Blocks of `editor.n_edits` facts that are trained on, one a step.")
    checkpoint_every: Count = setting(20, "Steps between two checkpoints; each is measured, then committed.")
    choose: Literal["last", "best"] = setting(
        "last",
        "Which checkpoint is the trained editor: the last, or the one with the highest mean of ES, GS and LS.",
    )


class TrainConfig(StagedConfig):
    """A whole training, resolved."""

    DIGEST_EXCLUDED: ClassVar = (
        "name", "run_id", "cluster", "tracking", "data.path", "validation.path", "model.device",
    )  # fmt: skip

    name: Text = setting("editor", "Human name of the training.")
    run_id: Text = setting("", "Names the training for ever; left out: a fresh id. Given again: it is continued.")
    seed: Natural = setting(0, "Seed of the order of facts and of the network.")
    model: ModelConfig = ModelConfig()
    data: TrainingDataConfig = TrainingDataConfig()
    validation: ValidationConfig = ValidationConfig()
    training: TrainingSection = TrainingSection()
    editor: EditorConfig = EditorConfig(method=METHOD)
    gates: Mapping[str, Any] = setting(
        {}, "Least ES, GS, LS or agreement, such as `ES: 0.5`, for a checkpoint to be committed; else exit code 4."
    )
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

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

    def changed_since(self, text: str, source: str) -> list[str]:
        """See `StagedConfig.changed_since`."""
        return diff(parse_train_config(text, source), self)


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
    editor = build_editor(values.pop("editor", None), document, problems, METHOD, make_training, {"seed": "seed"})
    gates = _gates(values.pop("gates", None), document, problems)
    config = build(TrainConfig, values, document, problems).replace(editor=editor, gates=gates)
    problems += [f"{document.at(key)}: {text}" for key, text in _contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


load_train_config, parse_train_config = readers(resolve_training)


def _gates(given: Any, document: Document, problems: list[str]) -> dict[str, float]:
    """Gates by the full names of the metrics."""
    if not isinstance(given, Mapping | None):
        problems.append(f"{document.at('gates')}: expected a section of keys, found {found(given)}")
        given = None
    bounds: dict[str, float] = {}
    for name, bound in flatten(given or {}).items():
        score = name.removeprefix("validation.")
        if score not in SCORES:
            problems.append(f"{document.at(f'gates.{name}')}: no such gate (known: {', '.join(SCORES)})")
        elif isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound <= 1:
            problems.append(f"{document.at(f'gates.{name}')}: expected a share from 0 to 1, found {bound!r}")
        else:
            bounds[f"validation.{score}"] = float(bound)
    return bounds


def _contradictions(config: TrainConfig) -> list[tuple[str, str]]:
    """Keys whose values do not go together, with what to do."""
    wrong = []
    data, own = config.data, config.validation
    if own.source is None and own.edits is None:
        wrong.append(("validation.edits", "say how many facts of the training data are held out"))
    if own.source is None and own.path is not None:
        wrong.append(("validation.path", "needs validation.source"))
    if data.edits is not None:
        left = data.edits - (own.edits or 0) * (own.source is None)
        if left < config.block_size:
            text = f"a block of {config.block_size} facts is more than the {left} that are trained on"
            wrong.append(("editor.n_edits", text))
    return wrong + common_contradictions(config)
