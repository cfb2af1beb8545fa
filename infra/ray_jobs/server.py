"""The job server of a Ray cluster over its HTTP interface: jobs, their states, stop, logs.

Plain HTTP, so that looking after jobs needs no Ray on the user's machine and answers in no time; a job is sent off
by `infra.ray_jobs.submit`. A token goes only to a server that has asked for one. Knows nothing of editing.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from elder.errors import ConfigError, ElderError, UnreachableError
from elder.infra.ray_jobs.token import Token, find_token, missing, refused

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE_S = 20.0
FIRST_S = 8.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ASKS = (401, 403)


@dataclass(frozen=True)
class JobRecord:
    """One job as Ray knows it; times are seconds since the epoch."""

    id: str
    status: str
    message: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    error_type: str | None = None
    entrypoint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the job has come to its end, good or bad."""
        return self.status in ENDED

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> JobRecord:
        """From the server's answer, without the runtime environment, which may hold secrets."""
        times = (answer.get("start_time"), answer.get("end_time"))
        started, ended = (None if time is None else float(time) / 1000 for time in times)
        return cls(
            id=str(answer.get("submission_id") or answer.get("job_id")),
            status=str(answer["status"]),
            message=str(answer.get("message") or ""),
            started=started,
            ended=ended,
            exit_code=answer.get("driver_exit_code"),
            error_type=answer.get("error_type"),
            entrypoint=str(answer.get("entrypoint") or ""),
            metadata=dict(answer.get("metadata") or {}),
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token must not follow a redirect to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class JobServer:
    """The HTTP interface of one cluster. Make it with `connect`.

    Args:
        address: `http(s)://HOST:PORT`.
        token: Sent with every request; None when the server asks for none.
    """

    def __init__(self, address: str, token: Token | None = None) -> None:
        self.address = address
        self.token = token
        self._opener = urllib.request.build_opener(_NoRedirect)

    def jobs(self) -> list[JobRecord]:
        """All submitted jobs, in no order; drivers that were not submitted are left out."""
        answers = self._json("GET", "/api/jobs/")
        return [JobRecord.from_answer(answer) for answer in answers if answer.get("submission_id")]

    def job(self, job_id: str) -> JobRecord | None:
        """One job, or None when the cluster does not know it."""
        answer = self._json("GET", f"/api/jobs/{quote(job_id, safe='')}", absent=True)
        return None if answer is None else JobRecord.from_answer(answer)

    def stop(self, job_id: str) -> None:
        """Ask a job to end; it gets SIGTERM, and SIGKILL some seconds later. Returns at once."""
        self._json("POST", f"/api/jobs/{quote(job_id, safe='')}/stop")

    def forget(self, job_id: str) -> None:
        """Remove a job that has ended from the cluster's list."""
        self._json("DELETE", f"/api/jobs/{quote(job_id, safe='')}", absent=True)

    def logs(self, job_id: str) -> str:
        """Everything the job's driver has written so far."""
        answer = self._json("GET", f"/api/jobs/{quote(job_id, safe='')}/logs", absent=True)
        return "" if answer is None else str(answer.get("logs") or "")

    def resources(self) -> dict[str, tuple[float, float]]:
        """Resource -> (in use, there); empty when the server does not say."""
        try:
            answer = self._json("GET", "/api/cluster_status?format=0", absent=True) or {}
            usage = answer["data"]["clusterStatus"]["loadMetricsReport"]["usage"]
            return {str(name): (float(pair[0]), float(pair[1])) for name, pair in usage.items()}
        except (KeyError, TypeError, ValueError, IndexError, ElderError):
            return {}

    def _json(self, method: str, path: str, absent: bool = False) -> Any:
        """One request and its answer; with `absent`, None where the server says 404."""
        try:
            return json.loads(self._request(method, path, PATIENCE_S))
        except urllib.error.HTTPError as error:
            if error.code == 404 and absent:
                return None
            raise self._explained(error) from error
        except ValueError as error:
            raise UnreachableError(_no_ray(self.address)) from error

    def _request(self, method: str, path: str, patience_s: float) -> bytes:
        headers = self.token.header if self.token else {}
        request = urllib.request.Request(f"{self.address}{path}", method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=patience_s) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(
                f"no Ray job server answers at {self.address}: {reason}. Is the cluster up (on its head: ray status), "
                "is this the address of its dashboard (port 8265 by default; from outside mostly through "
                "`ray dashboard` or `kubectl port-forward`), and was the dashboard installed (pip install "
                "'ray[default]')? Give the address with --address or RAY_API_SERVER_ADDRESS"
            ) from error

    def _explained(self, error: urllib.error.HTTPError) -> ElderError:
        if error.code in ASKS:
            return refused(self.address, self.token) if self.token else missing(self.address)
        text = error.read(4000).decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else error.reason
        return UnreachableError(f"the Ray job server at {self.address} answers {error.code}: {last}")


def connect(address: str, environ: Mapping[str, str]) -> JobServer:
    """A server that answers, with the token that it asks for.

    The first question is asked without a token, so that none goes to a server that does not want one.

    Args:
        address: `http(s)://HOST:PORT` of the dashboard.
        environ: Where a token is looked for.

    Raises:
        ConfigError: The address is not understood.
        UnreachableError: Nobody answers, it is no Ray cluster, or the token is missing or wrong.
    """
    server = JobServer(check_address(address))
    try:
        found = json.loads(server._request("GET", "/api/version", FIRST_S))
    except urllib.error.HTTPError as error:
        if error.code not in ASKS:
            raise UnreachableError(_no_ray(server.address)) from error
        server.token = find_token(environ)
        if server.token is None:
            raise missing(server.address) from error
        found = server._json("GET", "/api/version")
    except ValueError as error:
        raise UnreachableError(_no_ray(server.address)) from error
    if not isinstance(found, Mapping) or "ray_version" not in found:
        raise UnreachableError(_no_ray(server.address))
    return server


def check_address(text: str) -> str:
    """`http(s)://HOST:PORT` without a trailing slash.

    Raises:
        ConfigError: It is something else.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--address: expected http://HOST:8265, the address of the Ray dashboard, found '{parts.scheme or text}"
            f"{'://...' if parts.scheme else ''}'"
        )
    if parts.username or parts.password:
        raise ConfigError("--address: holds a user or password; Ray knows tokens only: export RAY_AUTH_TOKEN")
    return text.rstrip("/")


def default_address(environ: Mapping[str, str]) -> str:
    """The address when none is given: that of the environment if it is one of HTTP, else this machine's."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if environ.get(name, "").startswith(("http://", "https://")):
            return environ[name]
    return DEFAULT_ADDRESS


def is_loopback(address: str) -> bool:
    """Whether an address means this machine, judged by its name."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _no_ray(address: str) -> str:
    return (
        f"{address} answers, but not like a Ray cluster: give the address of the Ray dashboard (http://HOST:8265), "
        "not that of MLflow or of the cluster itself (port 6379)"
    )
