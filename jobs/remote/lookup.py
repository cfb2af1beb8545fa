"""Shared by the verbs that look after jobs: the server, the token, and which job a user means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from elder.errors import ConfigError
from elder.infra.ray_jobs.server import JobRecord, JobServer, connect, default_address

RUN_KEY, ATTEMPT_KEY = "elder.run_id", "elder.attempt"


def open_server(address: str | None) -> JobServer:
    """The job server that a user means, with a token if it asks for one.

    Raises:
        ConfigError: The address is not understood.
        UnreachableError: Nobody answers, or the token is missing or wrong.
    """
    return connect(address or default_address(os.environ), os.environ)


@dataclass(frozen=True)
class Attempts:
    """All jobs of one run on a cluster, the first attempt first; a job that is not ours counts as its own run."""

    run_id: str
    jobs: tuple[JobRecord, ...]

    @property
    def latest(self) -> JobRecord:
        """The newest attempt."""
        return self.jobs[-1]

    @property
    def next_id(self) -> str:
        """The id of one more attempt."""
        return f"{self.run_id}-r{max(attempt_of(job) for job in self.jobs) + 1}"


def attempts_of(jobs: Iterable[JobRecord], run_or_job: str) -> Attempts | None:
    """The attempts of a run, found by the run's id or by that of any of its jobs; None when there is none."""
    known = list(jobs)
    named = next((job for job in known if job.id == run_or_job), None)
    run_id = run_of(named) if named else run_or_job
    mine = sorted((job for job in known if run_of(job) == run_id), key=attempt_of)
    return Attempts(run_id, tuple(mine)) if mine else None


def find_job(server: JobServer, run_or_job: str) -> tuple[JobRecord, Attempts]:
    """The job that a user names: that very one, or the latest attempt of a run.

    Raises:
        ConfigError: The cluster knows neither such a job nor such a run.
    """
    known = server.jobs()
    found = attempts_of(known, run_or_job)
    if found is None:
        newest = sorted(known, key=lambda job: -(job.started or 0))[:5]
        hint = f"; the newest there: {', '.join(job.id for job in newest)}" if newest else ""
        raise ConfigError(f"'{run_or_job}': no such job on {server.address}{hint} (`elder jobs` lists them)")
    exact = next((job for job in found.jobs if job.id == run_or_job and run_or_job != found.run_id), None)
    return exact or found.latest, found


def run_of(job: JobRecord) -> str:
    """The run that a job works on; a job that is not ours is its own run."""
    return job.metadata.get(RUN_KEY) or job.id


def attempt_of(job: JobRecord) -> int:
    """Number of the attempt, from 1."""
    text = job.metadata.get(ATTEMPT_KEY, "1")
    return int(text) if re.fullmatch(r"\d{1,6}", text) else 1


def exit_code_of(job: JobRecord) -> int:
    """The exit code for a job that has ended: its own where it had one of ours; 3 where Ray could not start it."""
    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code in (1, 2, 3, 4, 5):
        return int(job.exit_code)
    could_not_start = (
        "RUNTIME_ENV_SETUP_FAILURE",
        "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
        "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
    )
    return 3 if job.error_type in could_not_start else 1


def with_address(command: str, server: JobServer) -> str:
    """A command with the address, where that is not the default."""
    default = default_address(os.environ).rstrip("/")
    return command if default == server.address else f"{command} --address {server.address}"


def write_log(text: str) -> None:
    """A piece of a job's log, as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()
