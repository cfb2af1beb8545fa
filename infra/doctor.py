"""Is everything here that a run needs? One line for each part, with a remedy for each that fails.

Nothing is imported before it is checked, and nothing that is made for a check stays. Knows no editing
method. Does not start a cluster.
"""

from __future__ import annotations

import importlib.metadata
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from elder.errors import ElderError, UnreachableError
from infra.toolchain import find_compiler, find_ninja

PYTHON = (3, 11)
TESTED = {  # library -> the versions that elder is tested with, and the extra that brings it
    "torch": ("2.13", ""),
    "transformers": ("5.23", ""),
    "safetensors": ("", ""),
    "ray": ("2.60", "[ray]"),
    "deepspeed": ("0.19", "[ray]"),
    "mlflow": ("3.17", "[tracking]"),
    "boto3": ("1.44", "[tracking]"),
}
WANTED_GB = 2  # for the cached world and a small run
UNNEEDED = "not found; no run needs it, only DeepSpeed operators that you enable yourself would"
PROBE_S = 5.0
RAY_PORT = {"ray": 10001, "": 6379}


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, whether it is good, what was found, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check(
    store: str | Path | None = None,
    s3: Mapping[str, Any] | None = None,
    mlflow: str | Path | None = None,
    address: str | None = None,
    cache: Path | None = None,
) -> list[Check]:
    """Look at this machine and, where given, at the places that a run will use.

    Args:
        store: Address of the object store: round trip and conditional create.
        s3: Fields of `infra.settings.S3Settings`.
        mlflow: Tracking address: round trip of a run with an artifact of 1 MB.
        address: Ray cluster; `auto` and `local` need none to run.
        cache: Folder for cached models; default `~/.cache/elder`.
    """
    checks = [_python(), *(_package(name) for name in TESTED)]
    checks.append(_tried("device", _device, "Reinstall torch for this machine."))
    checks += _toolchain()
    place = cache or Path.home() / ".cache" / "elder"
    checks.append(_tried("cache folder", lambda: _cache(place), "Set ELDER_HOME to a folder that can be written."))
    if store is not None:
        remedy = "Mend tracking.store and tracking.s3, or start the store."
        checks.append(_tried("object store", lambda: _store(store, s3), remedy))
    if mlflow is not None:
        remedy = "Mend tracking.mlflow, or start the server: mlflow server --backend-store-uri sqlite:///mlflow.db"
        checks.append(_tried("mlflow round trip", lambda: _mlflow(str(mlflow)), remedy))
    if address:
        remedy = "Mend cluster.address, start the cluster (ray up ray_cluster.yaml), or use cluster.address=local."
        checks.append(_tried("ray cluster", lambda: _ray(address), remedy))
    return checks


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in PYTHON)
    return Check("python", sys.version_info[:2] >= PYTHON, found, f"Use Python {wanted} or newer.")


def _package(name: str) -> Check:
    tested, extra = TESTED[name]
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install 'elder{extra}'")
    same = not tested or found == tested or found.startswith(f"{tested}.")
    return Check(name, True, found if same else f"{found} (tested with {tested})")


def _device() -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return f"cpu, {torch.get_num_threads()} threads"
    return f"{torch.accelerator.device_count()} x {accelerator.type}"


def _toolchain() -> list[Check]:
    """For information only: elder's runs compile nothing."""
    found = {"c++ compiler": find_compiler(), "ninja": find_ninja()}
    return [Check(name, True, path or UNNEEDED) for name, path in found.items()]


def _cache(place: Path) -> str:
    import shutil

    with _kept_clean(place):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"probe")
        free = shutil.disk_usage(place).free / 1e9
    if free < WANTED_GB:
        raise UnreachableError(f"{place}: only {free:.1f} GB free, {WANTED_GB} GB are wanted")
    return f"{place}, {free:.0f} GB free"


def _store(uri: str | Path, s3: Mapping[str, Any] | None) -> str:
    from infra.stores import open_store, probe_store

    store = open_store(uri, s3)
    with _kept_clean(None if store.uri.startswith("s3://") else Path(store.uri)):
        seconds = probe_store(store)
    return f"{store.uri}: round trip and conditional create in {seconds:.2f} s"


def _mlflow(uri: str) -> str:
    from infra.mlflow_probe import round_trip
    from infra.mlflow_uri import locate

    location = locate(uri)
    if location.database is None or location.database.exists():
        return f"{location.uri}: round trip of 1 MB in {round_trip(uri):.2f} s"
    with _kept_clean(location.database.parent):
        location.database.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".elder-doctor-", dir=location.database.parent) as folder:
            seconds = round_trip(folder)
    return f"{location.uri}: will be made by the first run; tried beside it in {seconds:.2f} s"


def _ray(address: str) -> str:
    if address in ("auto", "local"):
        return f"{address}: a local cluster is started for a run when none is running here"
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=PROBE_S) as answer:
                return f"{address}: {answer.read(200).decode(errors='replace')}"
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return f"{address}: answers and wants a token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
            raise
    host, port = parts.hostname or "", parts.port or RAY_PORT.get(parts.scheme, 6379)
    with socket.create_connection((host, port), timeout=PROBE_S):
        return f"{address}: {host}:{port} answers"


def _tried(name: str, action: Callable[[], str], remedy: str) -> Check:
    """Whatever goes wrong in a check is its result, not the end of the doctor."""
    try:
        return Check(name, True, action())
    except ElderError as error:
        return Check(name, False, str(error), remedy)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", remedy)


@contextmanager
def _kept_clean(place: Path | None) -> Iterator[None]:
    """Remove the folders that a check had to make, when they are empty again."""
    made = [] if place is None else [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                break
