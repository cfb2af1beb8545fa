"""What the trainers of mixtures ask of the editor whose maps they train."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from elder.mixture.route import Plan


class Bench(Protocol):
    """The mixtures on the clone that training runs on."""

    def disabled(self) -> AbstractContextManager[None]:
        """Passes in this block are the base model's."""

    def imposing(self, plan: Plan) -> AbstractContextManager[None]:
        """Passes in this block use the given plan and the maps that are being trained."""
