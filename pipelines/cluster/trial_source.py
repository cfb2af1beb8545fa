"""What decides which trials run on the cluster, and hears of them. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from elder.pipelines.config.run import RunConfig


@dataclass(frozen=True)
class TrialRun:
    """One run that is to be done: a trial, or a repetition of a finalist.

    Attributes:
        name: Such as `t0003`.
        config: Its resolved config.
        guarded: Whether the scheduler may stop it.
    """

    name: str
    config: RunConfig
    guarded: bool = True


class TrialSource(Protocol):
    """What decides which runs are done, and hears of them. Called in the driver's main thread only."""

    def next(self) -> TrialRun | None:
        """The next run, None when there is none now.

        Raises:
            StopIteration: There will be none any more.
        """

    def started(self, name: str) -> None:
        """A run has a place and begins, or begins again."""

    def staged(self, name: str, stage: int, metrics: Mapping[str, float]) -> None:
        """A stage of a run is committed."""

    def ended(self, name: str, failure: str | None, refused: bool = False) -> None:
        """A run has ended: by itself, stopped by the scheduler, or for a reason, which may be a gate's."""

    def stumbled(self, name: str, reason: str) -> None:
        """A run lost its process and will be taken up again."""

    def past(self) -> Sequence[Sequence[float]]:
        """Objectives after each stage of the guarded runs that ended before this process began."""

    def unreachable(self, reason: str) -> None:
        """The store does not answer: the search must end."""
