"""A comparison or a study with fake parts, here or in a process of its own that a test kills.

`python -m tests.cluster.suite_run '{"kind": "compare", "root": DIR, "address": ADDRESS, ...}'`
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome
from tests.cluster.nodes import NAME, wait_until
from tests.pipelines.fakes import FakeEditor, FakeKit, Mishap, RecordingTracker, StoreAt, make_edits

EDITS = 8
METHODS = {"elder": {}, "plus": {"method": "elder-plus"}, "third": {"method": "elder", "rank": 2}}
PARTS = {"p": {"values": [2, 4], "strategies": ["batch", "sequential-batched"], "edits": EDITS}}


@dataclass(frozen=True)
class SuiteKit(FakeKit):
    """Mishaps of some runs only; every load of a base and every editor leaves a line: what, run, node."""

    where: str = ""
    struck: Mapping[str, tuple[Mishap, ...]] = field(default_factory=dict)
    meet: int = 0  # no editor is made before so many processes have loaded a base: fake runs are over in no time

    def base(self, job: RunSpec, runtime: Any) -> Any:
        self._leave("base", job)
        return super().base(job, runtime)

    def editor(self, job: RunSpec, base: Any) -> Any:
        wait_until(lambda: Path(self.where).read_text().count("base ") >= self.meet, "the other processes")
        self._leave("editor", job)
        mishaps = self.struck.get(job.config.run_id, ())
        return FakeEditor(base, job.config.stream.batch_size, job.config.seed, mishaps)

    def _leave(self, what: str, job: RunSpec) -> None:
        with Path(self.where).open("a") as file:
            file.write(f"{what} {job.config.run_id} {os.environ.get(NAME, '?')}\n")


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        kind: `compare` or `study`.
        root: Directory of the store, of the lines that the kit leaves, and of the report.
        address: Of a Ray cluster; nothing: this process.
        struck: Run -> arguments of its mishap.
        meet: How many processes take part, at least.
    """

    kind: str
    root: str
    address: str = ""
    struck: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    meet: int = 0

    def text(self) -> str:
        """As an argument of this program."""
        return json.dumps(vars(self))


def carry_out(order: Order, events: list[Mapping[str, Any]] | None = None) -> SuiteOutcome:
    """Do it."""
    root = Path(order.root)
    root.mkdir(parents=True, exist_ok=True)
    cluster = {"workers": 1, "sharding": "none", "address": order.address} if order.address else {"workers": 0}
    values = {
        "name": "test", "run_id": "w", "data": {"edits": EDITS}, "stream": {"stage_size": 4, "batch_size": 2},
        "evaluation": {"protocols": ["generate"], "probes": 0}, "cluster": cluster,
        "tracking": {"mlflow": None, "retry_timeout_s": 0},
    }  # fmt: skip
    mishaps = {run: (Mishap(**given),) for run, given in order.struck.items()}
    outside = SuiteIO(
        StoreAt(str(root / "store")), RecordingTracker, (lambda event: None) if events is None else events.append,
        out=root / "out", edits=lambda run: make_edits(run.data.edits or EDITS),
        kit=SuiteKit(where=str(root / "lines"), struck=mishaps, meet=order.meet),
    )  # fmt: skip
    if order.kind == "compare":
        from elder.pipelines.config.comparison import parse_compare_config
        from elder.pipelines.suite.comparison_driver import run_compare

        return run_compare(parse_compare_config(json.dumps({**values, "compare": {"methods": METHODS}})), outside)
    from elder.pipelines.config.study import parse_study_config
    from elder.pipelines.suite.study_driver import run_study

    study = {"methods": {"elder": {}}, "parts": PARTS}
    return run_study(parse_study_config(json.dumps({**values, "study": study})), outside)


def commits_of(root: Path) -> dict[str, list[tuple[str, str]]]:
    """State digest and attempt of every committed stage of every run."""
    store = StoreAt(str(root / "store"))()
    runs = sorted(path.name for path in (root / "store" / "runs").iterdir())
    return {run: [(c.state_digest, c.attempt) for c in RunState(store, run).commits()] for run in runs}


def states(commits: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, list[str]]:
    """The digests alone: what must be the same wherever and however often the runs were done."""
    return {run: [digest for digest, _ in found] for run, found in commits.items()}


def lines(root: Path, what: str) -> list[tuple[str, str]]:
    """(run, node) of every load or editor, in order."""
    told = [line.split() for line in (root / "lines").read_text().splitlines()]
    return [(run, node) for kind, run, node in told if kind == what]


if __name__ == "__main__":
    carry_out(Order(**json.loads(sys.argv[1])))
