"""`elder` commands in processes of their own, as a user gives them, and what they leave in a directory store."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from elder.infra.stores.local import LocalStore
from elder.pipelines.run.commits import Commit, RunState
from tests.cluster.nodes import PATIENCE_S, end_of, root


class Command:
    """One `elder ARGS...`; what it prints goes into a file.

    Args:
        directory: Where it runs.
        *arguments: Its words.
        environment: Over that of this process.
    """

    def __init__(self, directory: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"said-{time.monotonic_ns()}.log"
        kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        given = {**kept, "PYTHONPATH": str(root()), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})}
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "elder.jobs.main", *map(str, arguments)],
                cwd=directory,
                env=given,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code."""
        return end_of(self.process, self.log, seconds)

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> bool:
        """kill -9, and wait until what it started has ended too. False: it had ended before."""
        if self.process.poll() is not None:
            return False
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(30)
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:  # Ray's agents look for their node once in a while only
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return True


def commits(store: Path, run_id: str) -> list[Commit]:
    """The committed stages of a run."""
    return RunState(LocalStore(store), run_id).commits()


def states(store: Path, run_id: str) -> list[str]:
    """Their state digests."""
    return [commit.state_digest for commit in commits(store, run_id)]


def ends(commands: Sequence[Command]) -> list[int]:
    """The exit codes of commands that run at once."""
    return [command.end() for command in commands]
