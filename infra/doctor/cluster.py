"""The Ray cluster as the doctor sees it: address, token, and what every node has and reaches.

Joins a cluster in another process, which is killed when it takes too long. Starts no cluster.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from elder.errors import UnreachableError
from elder.infra.doctor import nodes
from elder.infra.doctor.check import Check
from elder.infra.doctor.report import node_lines
from elder.infra.ray_jobs.token import find_token, missing, refused

PROBE_S = 5.0
JOIN_S = 15.0  # joining and leaving, beside the asking
PORTS = {"ray": 10001, "": 6379}
AUTH = ("unauthenticated", "authentication", "token")


def try_ray(address: str, servers: Mapping[str, str], marker: str | None, node_s: float = nodes.NODE_S) -> list[Check]:
    """The lines of a cluster.

    Args:
        address: `auto`, `local`, `http(s)://HOST:8265`, `ray://HOST:10001` or `HOST:6379`.
        servers: What -> address; each node is asked whether it reaches it.
        marker: A file in the store's directory that each node should see, for a store that is a directory.
        node_s: How many seconds a node may take to answer.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address in ("auto", "local"):
        text = f"{address}: a local cluster is started for a run when none is running here"
        return [Check("ray cluster", True, text)]
    spec = {"urls": list(servers.values()), "markers": [marker] if marker else [], "node_s": node_s}
    ask = _by_job if address.startswith(("http://", "https://")) else _by_joining
    with tempfile.TemporaryDirectory(prefix="elder-doctor-") as folder:  # beside it, our modules would be importable
        text, token = ask(address, spec, Path(shutil.copy(nodes.__file__, folder)))
    answer = next((line for line in text.splitlines() if line.startswith(nodes.MARK)), None)
    if answer is None:
        raise UnreachableError(f"{address} answers, but its nodes could not be asked: {_last(text)}")
    found = json.loads(answer.removeprefix(nodes.MARK))
    head = f"{address}: Ray {found['ray']}, {len(found['nodes'])} nodes{token}"
    return [Check("ray cluster", True, head), *node_lines(found, servers, marker)]


def _by_job(address: str, spec: Mapping[str, Any], script: Path) -> tuple[str, str]:
    """Send the survey as a job, and forget the job again; returns its log and a word on the token."""
    from elder.infra.ray_jobs.server import connect
    from elder.infra.ray_jobs.submit import Submission, submit, wait

    server = connect(address, os.environ)
    job = f"elder-doctor-{uuid.uuid4().hex[:8]}"
    command = f"python {script.name} {shlex.quote(json.dumps({**spec, 'address': 'auto'}))}"
    submit(server, Submission(job, command, script.parent))
    ended = wait(server, job, _whole(spec))
    text = server.logs(job)
    if ended is None or not ended.over:
        server.stop(job)
        raise UnreachableError(
            f"{address} took a job, but it did not end within {_whole(spec):.0f} s: is the cluster full?"
        )
    server.forget(job)
    return text, ", token accepted" if server.token else ", asks for no token"


def _by_joining(address: str, spec: Mapping[str, Any], script: Path) -> tuple[str, str]:
    """Join the cluster from here, in another process; returns its output and a word on the token."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 6379)
    try:
        with socket.create_connection((host, port), timeout=PROBE_S):
            pass
    except OSError as error:
        raise UnreachableError(f"nobody answers at {host}:{port}: {error.strerror or error}") from error
    spec = {**spec, "address": address if parts.scheme == "ray" else f"{host}:{port}"}
    code, text = _survey(spec, script)
    if code == 0:
        return text, ""
    if not any(word in text.lower() for word in AUTH):
        raise UnreachableError(f"{address} answers, but cannot be joined: {_last(text)}")
    token = find_token(os.environ)
    if token is None:
        raise missing(address)
    code, text = _survey(spec, script, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token.value)
    if code:
        raise refused(address, token)
    mode = "" if os.environ.get("RAY_AUTH_MODE") == "token" else "; export RAY_AUTH_MODE=token for runs"
    return text, f", token accepted{mode}"


def _survey(spec: Mapping[str, Any], script: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of the survey in another process."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(script), json.dumps(spec)]
    out, err = subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(
            command, cwd=script.parent, env=env, stdout=out, stderr=err, timeout=_whole(spec), check=False
        )
    except subprocess.TimeoutExpired as late:
        return 1, f"{(late.output or b'').decode(errors='replace')}\nno answer within {_whole(spec):.0f} s"
    return done.returncode, done.stdout.decode(errors="replace")


def _whole(spec: Mapping[str, Any]) -> float:
    """Seconds for joining, asking and leaving."""
    return JOIN_S + float(spec["node_s"])


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no output"
