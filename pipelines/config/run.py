"""The one schema of a run. Every key a user may set is declared, documented and checked here.

Imports no torch: reading a config is instant. Knows nothing of how a method edits (its options are checked by
`elder.registry`), nor of stores, trackers or the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from elder.errors import ConfigError
from elder.options.fields import Natural, Text, setting
from elder.pipelines.config.base import StagedConfig, diff, flatten, fresh_run_id
from elder.pipelines.config.checks import build_editor, contradictions, gate_problems, inherited_options
from elder.pipelines.config.document import Document, build
from elder.pipelines.config.files import read_document, readers
from elder.pipelines.config.sections import (
    ClusterConfig,
    DataConfig,
    EditorConfig,
    EvaluationConfig,
    ModelConfig,
    S3Config,
    StreamConfig,
    TrackingConfig,
)
from elder.registry import make_options

SUITES_AND_SEARCHES = {
    "tune": ("a search", "tune"),
    "compare": ("a comparison", "compare"),
    "study": ("a study", "study"),
}
"""Sections that make of a config one of many runs, and the verbs that do them."""

__all__ = [
    "ClusterConfig",
    "DataConfig",
    "EditorConfig",
    "EvaluationConfig",
    "ModelConfig",
    "RunConfig",
    "S3Config",
    "StreamConfig",
    "TrackingConfig",
    "diff",
    "flatten",
    "fresh_run_id",
    "kind_of",
    "load_config",
    "parse_config",
    "resolve",
]


class RunConfig(StagedConfig):
    """A whole run, resolved.

    The digest leaves out `name` and `run_id` (labels); `cluster.*` and `model.device` (a run may be continued with
    other workers or another sharding); `tracking.*` (a store that moved is still the same run); `data.path` (the edits
    themselves are compared, by their own digest, wherever the file lies); `editor.text` (what was read of it is
    compared by the editor); `evaluation.batch_size` (speed only) and `evaluation.probes` (display only). Gates are
    in: they decide which stages are committed.
    """

    DIGEST_EXCLUDED: ClassVar = (
        "name", "run_id", "cluster", "tracking", "data.path", "editor.text", "model.device", "evaluation.batch_size",
        "evaluation.probes",
    )  # fmt: skip

    name: Text = setting("elder", "Human name of the run.")
    run_id: Text = setting("", "Names the run for ever; left out: a fresh id. Given again: that run is continued.")
    seed: Natural = setting(0, "Seed of data order, initialisation and training.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    stream: StreamConfig = StreamConfig()
    editor: EditorConfig = EditorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: Mapping[str, Any] = setting(
        {},
        "Least value of a metric for a stage to be committed, such as `reliability: 0.9` (first protocol) or "
        "`locality.forced: 0.95`; the largest for `perplexity`, `stale`, `fluency.after_answer` and what should be "
        "out of scope (`scope.locality`); for `ability.TASK` the largest loss against the unedited model. A refused "
        "stage ends the run with exit code 4.",
    )
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    def changed_since(self, text: str, source: str) -> list[str]:
        """See `StagedConfig.changed_since`."""
        return diff(parse_config(text, source), self)

    def editor_options(self) -> Any:
        """The typed options of the method, with `stream.batch_size` and `seed` handed in where it takes them."""
        return make_options(self.editor.method, {**self.editor.options, **inherited_options(self)})


def kind_of(path_or_name: str, overrides: Sequence[str] = ()) -> str:
    """The kind of a config, by its sections: `training`, `tune`, `compare`, `study`, else `edit`.

    Raises:
        ConfigError: It cannot be read.
    """
    values = read_document(path_or_name, overrides).values
    return next((section for section in ("training", *SUITES_AND_SEARCHES) if section in values), "edit")


def resolve(document: Document) -> RunConfig:
    """Check a document against the schema and fill in the defaults.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    problems: list[str] = []
    values = dict(document.values)
    if "training" in values:
        raise ConfigError(
            f"{document.at('training')}: this config describes the training of an editor, not an edit run: run it with "
            "`elder train-editor`, or take the section out"
        )
    for section, (what, verb) in SUITES_AND_SEARCHES.items():
        if section in values:
            raise ConfigError(
                f"{document.at(section)}: this config describes {what}, not one run: run it with `elder {verb}`, or "
                "take the section out"
            )
    editor = build_editor(values.pop("editor", None), document, problems, handed=values)
    if isinstance(values.get("gates"), Mapping):
        values["gates"] = flatten(values["gates"])
    config = build(RunConfig, values, document, problems).replace(editor=editor)
    problems += gate_problems(config, document)
    problems += [f"{document.at(key)}: {text}" for key, text in contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


load_config, parse_config = readers(resolve)
