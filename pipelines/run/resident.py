"""A base model that stays in a process from trial to trial.

Editors work on a clone that shares its weights and never change them, so any number of runs can follow each other
on one loaded model. Knows nothing of Ray, nor of how trials are chosen.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elder.base import Base, Editor
from elder.pipelines.run.spec import Assessing, Measuring, RunSpec, WorkerParts
from elder.runtime import Runtime


class ResidentBases:
    """The base model of this process; another model, or another sharding, takes its place."""

    def __init__(self) -> None:
        self.loads = 0
        self._key: tuple[Any, ...] | None = None
        self._base: Base | None = None
        self.answers: dict[tuple[int, int, bool], Any] = {}  # of the base, see `elder.metrics.base_answers`

    def get(self, job: RunSpec, runtime: Runtime) -> Base:
        """The base of a job, loaded if it is not here. Collective."""
        model = job.config.model
        where = (job.sharding, str(runtime.device), runtime.world_size, runtime.sharded)
        said = (job.config.data.chat, job.config.data.system)
        key = (model.source, model.revision, model.dtype, job.cache_dir, *said, *where)
        if self._base is None or key != self._key:
            self._base = None
            self.answers = {}
            gc.collect()  # the old weights go before the new ones come
            self._base, self._key = job.kit.base(job, runtime), key
            self.loads += 1
        return self._base

    def kit(self, inner: WorkerParts) -> WorkerParts:
        """The parts of a kit, with the base taken from here."""
        return ResidentParts(inner, self)


@dataclass(frozen=True)
class ResidentParts(WorkerParts):
    """A kit whose base is resident; it stays in its process."""

    inner: WorkerParts
    bases: ResidentBases

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        """See `ResidentBases.get`."""
        return self.bases.get(replace(job, kit=self.inner), runtime)

    def editor(self, job: RunSpec, base: Base) -> Editor:
        """As the inner kit."""
        return self.inner.editor(job, base)

    def meter(self, job: RunSpec, editor: Editor) -> Measuring:
        """As the inner kit; the base is not asked again what it was asked for an earlier run."""
        from elder.metrics.evaluator import Evaluator

        meter = self.inner.meter(job, editor)
        if isinstance(meter, Evaluator):
            meter.share(self.bases.answers)
        return meter

    def ability(self, job: RunSpec, editor: Editor) -> Assessing | None:
        """As the inner kit."""
        return self.inner.ability(job, editor)

    def save(self, directory: Path, editor: Editor, extra: Mapping[str, Any]) -> None:
        """As the inner kit."""
        self.inner.save(directory, editor, extra)

    def kept(self) -> tuple[str, ...]:
        """As the inner kit."""
        return self.inner.kept()

    def restore(self, directory: Path, editor: Editor) -> None:
        """As the inner kit."""
        self.inner.restore(directory, editor)
