"""The common part of the configs of runs and of trainings: both are done in stages. Knows neither of the two."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from pydantic import ValidationInfo, field_validator

from elder.options.fields import Settings
from elder.pipelines.config.former import in_former_words

if TYPE_CHECKING:
    from elder.pipelines.config.sections import (
        ClusterConfig,
        DataPlace,
        EditorConfig,
        EvaluationConfig,
        ModelConfig,
        StreamConfig,
        TrackingConfig,
    )


class StagedConfig(Settings):
    """A resolved config: every default is filled in, every value has its type, nothing contradicts.

    Attributes:
        DIGEST_EXCLUDED: Keys and sections that cannot change the result.
        DIGEST_DEFAULTS: Keys that came later: at these values a run is what it was without them.
    """

    DIGEST_EXCLUDED: ClassVar[tuple[str, ...]]
    DIGEST_DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "data.chat": "auto",
        "data.system": None,
        "data.unusable": "refuse",
        "data.known": False,
        "evaluation.completions": False,
        "evaluation.ability.tasks": [],
        "evaluation.ability.path": None,
        "evaluation.ability.items": 100,
        "editor.distance": None,
        "editor.whole_words": False,
        "editor.ask_base": None,
        "editor.after_answer": "edited",
        "editor.replaces": "prompt",
        "editor.center": "first",
        "editor.trade": None,
        "editor.answer_bias": 0.0,
    }

    if TYPE_CHECKING:  # every kind declares these with its own help, and in its own order
        name: str
        run_id: str
        seed: int
        model: ModelConfig
        data: DataPlace
        editor: EditorConfig
        gates: Mapping[str, float]
        cluster: ClusterConfig
        tracking: TrackingConfig

        @property
        def stream(self) -> StreamConfig:
            """Sizes of stages and batches."""

        @property
        def evaluation(self) -> EvaluationConfig:
            """The measurement after a stage."""

        def editor_options(self) -> Any:
            """The typed options of the method."""

        def changed_since(self, text: str, source: str) -> list[str]:
            """Compare with the config that a run left in its store: one line for each key that differs.

            Raises:
                ConfigError: The text is no config of this kind.
            """

    @field_validator("run_id", check_fields=False)
    @classmethod
    def _fresh(cls, run_id: str, info: ValidationInfo) -> str:
        return run_id or fresh_run_id(info.data.get("name", ""))

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files, the method's options beside `method`."""
        values = self.model_dump(mode="json")
        return {**values, "editor": {"method": self.editor.method, **values["editor"]["options"]}}

    def dump_yaml(self) -> str:
        """The resolved config as YAML, which can be read back."""
        return as_yaml(self.to_dict())

    def digest(self) -> str:
        """sha256 of everything that can change the result; it must be equal for a run to be continued."""
        kept = in_former_words(self.kept())
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def kept(self) -> dict[str, Any]:
        """Dotted key -> value of all that the digest covers."""
        excluded = tuple(f"{name}." for name in self.DIGEST_EXCLUDED)
        new = self.DIGEST_DEFAULTS
        return {
            k: v
            for k, v in flatten(self.to_dict()).items()
            if not f"{k}.".startswith(excluded) and not (k in new and v == new[k])
        }


def diff(old: StagedConfig, new: StagedConfig) -> list[str]:
    """The difference of two digests: one line `key: old -> new` for each key, sorted."""
    before, after = old.kept(), new.kept()
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return [f"{key}: {_show(before, key)} -> {_show(after, key)}" for key in keys]


def as_yaml(values: Mapping[str, Any]) -> str:
    """A config as YAML, in the order of its keys."""
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            flat[f"{prefix}{key}"] = value
    return flat


def fresh_run_id(name: str) -> str:
    """A new run id that begins with the run's name: `demo-20260131-142530-9f3c`."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "run"
    return f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "(not set)"
