"""What the stage loop and its driver ask of a config, be it one of a stream of edits or of the training of an editor.

Knows neither of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from elder.pipelines.config.sections import (
    ClusterConfig,
    EditorConfig,
    EvaluationConfig,
    ModelConfig,
    StreamConfig,
    TrackingConfig,
)


class DataPlace(Protocol):
    """Where data come from."""

    @property
    def source(self) -> str:
        """A named source."""

    @property
    def path(self) -> str | None:
        """Its file."""

    @property
    def edits(self) -> int | None:
        """How many to take; None takes all."""


class StagedConfig(Protocol):
    """A resolved config of something that is done in stages."""

    @property
    def name(self) -> str:
        """Human name of the run."""

    @property
    def run_id(self) -> str:
        """Names the run for ever."""

    @property
    def seed(self) -> int:
        """Decides everything that is drawn."""

    @property
    def model(self) -> ModelConfig:
        """The base model."""

    @property
    def data(self) -> DataPlace:
        """Where the data come from."""

    @property
    def stream(self) -> StreamConfig:
        """Sizes of stages and batches."""

    @property
    def editor(self) -> EditorConfig:
        """The method and its options."""

    @property
    def evaluation(self) -> EvaluationConfig:
        """What is measured after a stage."""

    @property
    def gates(self) -> Mapping[str, float]:
        """What the measured must reach."""

    @property
    def cluster(self) -> ClusterConfig:
        """Where the run lives."""

    @property
    def tracking(self) -> TrackingConfig:
        """Where it is recorded."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files."""

    def dump_yaml(self) -> str:
        """The resolved config as YAML."""

    def digest(self) -> str:
        """sha256 of everything that can change the result."""

    def editor_options(self) -> Any:
        """The typed options of the method."""

    def changed_since(self, text: str, source: str) -> list[str]:
        """What is not as in the config that a run left in its store: one line for each key.

        Raises:
            ConfigError: The text is no config of this kind.
        """
