"""Sends a job to a Ray cluster and follows its log. The one file that imports ray.job_submission.

Ray is imported when a job is sent or followed, never before. Knows nothing of editing, configs or stores.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception, retry_if_exception_type, stop_after_delay, wait_fixed

from elder.errors import ConfigError, ElderError, UnreachableError
from elder.infra.ray_jobs.server import JobRecord, JobServer
from elder.infra.ray_jobs.token import missing, refused

STOP_WAIT_S = 20  # how long a job that is stopped has to close its record before SIGKILL
LOUD = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray's client would take these instead of what it is given
NOT_YET = "No available agent"  # a head that has only just started, in Ray's words
PAUSE_S = 1.0
PATIENCE_S = 60.0  # how long a follower waits for a silent cluster, and a new job for one that is starting


class AlreadySubmitted(ConfigError):
    """The cluster has a job of this id."""


@dataclass(frozen=True)
class Submission:
    """One job to be sent.

    Attributes:
        id: Its id on the cluster; unique there for ever.
        entrypoint: Shell command, run in the working directory.
        working_dir: Directory that travels to every node.
        environment: Variables of driver and workers; everyone who may list jobs can read them.
        metadata: What others see of the job.
        driver_cpus: Cores that Ray reserves for the driver; 0 runs it on the head beside everything else.
    """

    id: str
    entrypoint: str
    working_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    driver_cpus: float = 0.0


def submit(server: JobServer, job: Submission) -> None:
    """Upload the working directory and start the job; returns when Ray has taken it.

    Raises:
        AlreadySubmitted: The cluster has a job of this id.
        UnreachableError: The cluster does not answer, or does not take the package.
    """
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **job.environment}
    with tailing_client(server) as client:
        try:
            _patiently(retry_if_exception(lambda error: NOT_YET in str(error)))(
                client.submit_job,
                entrypoint=job.entrypoint,
                submission_id=job.id,
                runtime_env={"working_dir": str(job.working_dir), "env_vars": environment},
                metadata=dict(job.metadata),
                entrypoint_num_cpus=job.driver_cpus or None,
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                raise AlreadySubmitted(f"'{job.id}' has been submitted to {server.address} before") from error
            raise UnreachableError(
                f"the Ray cluster at {server.address} did not take the job: {_last(error)}"
            ) from error


def follow(server: JobServer, job_id: str, write: Callable[[str], None]) -> JobRecord:
    """Write the job's log as it grows, until the job has ended; a connection that breaks is made again.

    Returns:
        The job as it ended.

    Raises:
        UnreachableError: The cluster has been silent for a minute, or does not take the token.
        ElderError: The cluster does not know the job.
    """
    reader = _Reader(write)
    while True:
        # Whatever the connection dies of: whether the cluster is there is asked in the next line.
        with suppress(UnreachableError), tailing_client(server) as client, suppress(Exception):
            asyncio.run(reader.read(client, job_id))
        job = _patiently(retry_if_exception_type(UnreachableError))(server.job, job_id)
        if job is None:
            raise ElderError(f"the cluster at {server.address} does not know the job '{job_id}' any more")
        if job.over:
            reader.take(server.logs(job_id))
            return job
        time.sleep(PAUSE_S)


def _patiently(retry: retry_if_exception) -> Retrying:
    """Calls again for a minute."""
    return Retrying(retry=retry, stop=stop_after_delay(PATIENCE_S), wait=wait_fixed(PAUSE_S), reraise=True)


def wait(server: JobServer, job_id: str, seconds: float, pause: float = 0.3) -> JobRecord | None:
    """Wait until a job has ended; returns it as it is then, or after so many seconds."""
    end = time.monotonic() + seconds
    job = server.job(job_id)
    while job is not None and not job.over and time.monotonic() < end:
        time.sleep(pause)
        job = server.job(job_id)
    return job


class _Reader:
    """Writes a log once, although the server sends it from its beginning at every connection."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._written = write, 0

    def take(self, text: str, position: int = 0) -> int:
        """Write what is new of a piece that begins at a position; returns where the piece ends."""
        new = text[max(0, self._written - position) :]
        position += len(text)
        if new:
            self._write(new)
            self._written = position
        return position

    async def read(self, client: Any, job_id: str) -> None:
        """Follow the log until the server closes the connection."""
        position = 0
        async for text in client.tail_job_logs(job_id):
            position = self.take(text, position)


@contextmanager
def tailing_client(server: JobServer) -> Iterator[Any]:
    """Ray's own client for this server, quiet, with the errors of this house."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    # An empty header keeps Ray from sending a token to a server that has not asked for one.
    headers = server.token.header if server.token else {"Authorization": ""}
    before = {name: os.environ.pop(name) for name in OVERRIDES if name in os.environ}
    try:
        client = JobSubmissionClient(server.address, headers=headers)
    except AuthenticationError as error:
        raise _auth(server) from error
    except (OSError, RuntimeError) as error:
        raise UnreachableError(f"the Ray cluster at {server.address} does not answer: {_last(error)}") from error
    finally:
        os.environ.update(before)
    try:
        yield client
    except AuthenticationError as error:
        raise _auth(server) from error
    except OSError as error:  # what requests raises is one
        raise UnreachableError(f"the connection to {server.address} broke: {_last(error)}") from error


def _auth(server: JobServer) -> UnreachableError:
    return refused(server.address, server.token) if server.token else missing(server.address)


def _last(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:400] if lines else type(error).__name__
