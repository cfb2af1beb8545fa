"""The Ray cluster as the doctor sees it: address, token, and what every node has and reaches.

Joins a cluster in a process of its own, which is killed when it takes too long. Starts no cluster.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from elder.errors import UnreachableError
from elder.infra.doctor import nodes as doctor_nodes
from elder.infra.doctor.check import Check
from elder.infra.doctor.report import node_lines
from elder.infra.ray_jobs.token import find_token, missing, refused

PROBE_S = 5.0
SURVEY_S = 40.0  # joining, asking, leaving
PORTS = {"ray": 10001, "": 6379}
AUTH = ("unauthenticated", "authentication", "token")
UNSEEN = "The nodes were not looked at: "


def try_ray(address: str, servers: Mapping[str, str], marker: str | None) -> list[Check]:
    """The lines of a cluster.

    Args:
        address: `auto`, `local`, `http(s)://HOST:8265`, `ray://HOST:10001` or `HOST:6379`.
        servers: What -> address; each node is asked whether it reaches it.
        marker: A file in the store's directory that each node should see, for a store that is a directory.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address in ("auto", "local"):
        text = f"{address}: a local cluster is started for a run when none is running here"
        return [Check("ray cluster", True, text)]
    spec = {"urls": list(servers.values()), "markers": [marker] if marker else []}
    if address.startswith(("http://", "https://")):
        found, token = _by_job(address, spec)
    else:
        found, token = _by_joining(address, spec)
    head = f"{address}: Ray {found['ray']}, {len(found['nodes'])} nodes{token}"
    return [Check("ray cluster", True, head), *node_lines(found, servers, marker)]


def _by_job(address: str, spec: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Send the survey as a job, and forget the job again."""
    from elder.infra.ray_jobs.server import connect
    from elder.infra.ray_jobs.submit import Submission, submit, wait

    server = connect(address, os.environ)
    job = f"elder-doctor-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="elder-doctor-") as folder:
        script = Path(shutil.copy(doctor_nodes.__file__, folder)).name
        command = f"python {script} {shlex.quote(json.dumps({**spec, 'address': 'auto'}))}"
        submit(server, Submission(job, command, Path(folder)))
        ended = wait(server, job, SURVEY_S)
        text = server.logs(job)
    if ended is None or not ended.over:
        server.stop(job)
        raise UnreachableError(
            f"{address} took a job, but it did not end within {SURVEY_S:.0f} s: is the cluster full?"
        )
    server.forget(job)
    return _told(text, address), ", token accepted" if server.token else ", asks for no token"


def _by_joining(address: str, spec: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Join the cluster from here, in a process of its own."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 6379)
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            pass
    except OSError as error:
        raise UnreachableError(f"nobody answers at {host}:{port}: {error.strerror or error}") from error
    target = address if parts.scheme == "ray" else f"{host}:{port}"
    code, text = _survey({**spec, "address": target}, {})
    if code == 0:
        return _told(text, address), ""
    if not any(word in text.lower() for word in AUTH):
        raise UnreachableError(f"{address} answers, but cannot be joined: {_last(text)}")
    token = find_token(os.environ)
    if token is None:
        raise missing(address)
    code, text = _survey({**spec, "address": target}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token.value})
    if code:
        raise refused(address, token)
    mode = "" if os.environ.get("RAY_AUTH_MODE") == "token" else "; export RAY_AUTH_MODE=token for runs"
    return _told(text, address), f", token accepted{mode}"


def _survey(spec: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of the survey in a process of its own."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    env.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="elder-doctor-") as folder:  # else the modules beside it were importable
        command = [sys.executable, shutil.copy(doctor_nodes.__file__, folder), json.dumps(spec)]
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            text, _ = process.communicate(timeout=SURVEY_S)
            return process.returncode, text
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            return 1, f"{text}\nno answer within {SURVEY_S:.0f} s"


def _told(text: str, address: str) -> dict[str, Any]:
    for line in text.splitlines():
        if line.startswith(doctor_nodes.MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(doctor_nodes.MARK))
            return found
    raise UnreachableError(f"{address} answers, but its nodes could not be asked: {_last(text)}")


def _last(text: str) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing"
