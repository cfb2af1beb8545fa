"""The one schema of a run. Every key a user may set is declared, documented and checked here.

Imports no torch: reading a config is instant. Knows nothing of how a method edits (its options are checked by
`elder.registry`), nor of stores, trackers or the command line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from elder.errors import ConfigError
from elder.pipelines.config.checks import build_editor, contradictions, gate_problems, handed_options, plain
from elder.pipelines.config.files import parse_document, read_document
from elder.pipelines.config.schema import Document, build, setting
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

SEVERAL = {
    "tune": ("a search", "tune"),
    "compare": ("a comparison", "compare"),
    "study": ("a study", "study"),
}
"""Sections that make of a config one of many runs, and the verbs that do them."""

NEUTRAL = (
    "name",
    "run_id",
    "cluster",
    "tracking",
    "data.path",
    "editor.text",
    "model.device",
    "evaluation.batch_size",
    "evaluation.probes",
)

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


@dataclass(frozen=True)
class RunConfig:
    """A whole run, resolved: every default is filled in, every value has its type, nothing contradicts."""

    name: str = setting("elder", "Human name of the run.")
    run_id: str = setting("", "Names the run for ever; left out: a fresh id. Given again: that run is continued.")
    seed: int = setting(0, "Seed of data order, initialisation and training.", low=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    editor: EditorConfig = field(default_factory=EditorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gates: Mapping[str, float] = setting(
        dict,
        "Least value of a metric for a stage to be committed, such as `reliability: 0.9` (first protocol) or "
        "`locality.forced: 0.95`; for `perplexity` the largest. A refused stage ends the run with exit code 4.",
    )
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not self.run_id:
            object.__setattr__(self, "run_id", fresh_run_id(self.name))

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files, the method's options beside `method`."""
        values = dataclasses.asdict(self)
        values["editor"] = {"method": self.editor.method, **values["editor"]["options"]}
        return plain(values)  # type: ignore[no-any-return]

    def dump_yaml(self) -> str:
        """The resolved config as YAML; `parse_config` reads it back."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def digest(self) -> str:
        """sha256 of everything that can change the result; it must be equal for a run to be continued.

        Left out (`NEUTRAL`): `name` and `run_id` (labels); `cluster.*` and `model.device` (a run may go on with
        other workers or another sharding); `tracking.*` (a store that moved is still the same run);
        `data.path` (the edits themselves are compared, by their own digest, wherever the file lies); `editor.text`
        (what was read of it is compared by the editor);
        `evaluation.batch_size` (speed only) and `evaluation.probes` (display only). Gates stay in: they decide
        which stages are committed.
        """
        kept = {key: value for key, value in flatten(self.to_dict()).items() if not _neutral(key)}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def changed_since(self, text: str, source: str) -> list[str]:
        """What is not as in the config that a run left in its store: one line for each key; empty when it is the same.

        Raises:
            ConfigError: The text is no config of a run.
        """
        before = parse_config(text, source)
        return [] if before.digest() == self.digest() else diff(before, self)

    def editor_options(self) -> Any:
        """The typed options of the method, with `stream.batch_size` and `seed` handed in where it takes them."""
        return make_options(self.editor.method, {**self.editor.options, **handed_options(self)})


def load_config(path_or_name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file or a packaged config and lay overrides over it.

    Args:
        path_or_name: A YAML file, or the name of a packaged config such as `demo`.
        overrides: Texts such as `editor.lr=2e-5`; values are YAML.

    Raises:
        ConfigError: Everything that is wrong, at once, each with file, line and key.
    """
    return resolve(read_document(path_or_name, overrides))


def kind_of(path_or_name: str, overrides: Sequence[str] = ()) -> str:
    """What a config describes, by its sections: `training`, `tune`, `compare`, `study`, else `edit`.

    Raises:
        ConfigError: It cannot be read.
    """
    values = read_document(path_or_name, overrides).values
    return next((section for section in ("training", *SEVERAL) if section in values), "edit")


def parse_config(text: str, source: str = "config.yaml") -> RunConfig:
    """Read a config from YAML text, such as the one a run left in its store.

    Raises:
        ConfigError: As `load_config`.
    """
    return resolve(parse_document(text, source))


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
    for section, (what, verb) in SEVERAL.items():
        if section in values:
            raise ConfigError(
                f"{document.at(section)}: this config describes {what}, not one run: run it with `elder {verb}`, or "
                "take the section out"
            )
    editor = build_editor(values.pop("editor", None), values, document, problems)
    if isinstance(values.get("gates"), Mapping):
        values["gates"] = flatten(values["gates"])
    config = build(RunConfig, values, document, problems)
    config = dataclasses.replace(config, editor=editor)
    problems += gate_problems(config, document)
    problems += [f"{document.at(key)}: {text}" for key, text in contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            flat[f"{prefix}{key}"] = value
    return flat


def diff(old: RunConfig, new: RunConfig) -> list[str]:
    """What makes the digests differ: one line `key: old -> new` for each key, sorted."""
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    keys = sorted(key for key in {*before, *after} if not _neutral(key) and before.get(key) != after.get(key))
    return [f"{key}: {_show(before, key)} -> {_show(after, key)}" for key in keys]


def fresh_run_id(name: str) -> str:
    """A new run id that begins with the run's name: `demo-20260131-142530-9f3c`."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "run"
    return f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _neutral(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NEUTRAL)


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "(not set)"
