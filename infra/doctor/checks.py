"""Is everything here that a run needs? One line for each part, with a remedy for each that fails.

Nothing is imported before it is checked, and nothing that is made for a check stays. Parts are tried side by side,
each with its own time-out. Knows no editing method. Does not start a cluster.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from elder.errors import ElderError, UnreachableError
from elder.infra.doctor.check import Action, Check, Part, try_all
from elder.infra.doctor.cluster import try_ray
from elder.infra.doctor.nodes import COMPILERS, NODE_S, version
from elder.infra.doctor.places import kept_clean, servers, try_clock, try_mlflow, try_store
from elder.infra.doctor.report import WANTED_GB  # for the cached world and a small run

PYTHON = (3, 11)
TESTED = {  # library -> the versions that elder is tested with, and the extra that brings it
    "torch": ("2.13", "[edit]"),
    "transformers": ("5.23", "[edit]"),
    "safetensors": ("", "[edit]"),
    "ray": ("2.60", "[ray]"),
    "deepspeed": ("0.19", "[ray]"),
    "mlflow": ("3.17", "[tracking]"),
    "boto3": ("1.44", ""),
}
UNNEEDED = "not found; no run needs it, only DeepSpeed operators that you enable yourself would"
REMEDIES = {
    "device": "Reinstall torch for this machine.",
    "cache folder": "Set ELDER_HOME to a folder that can be written.",
    "clock": "Look at the line of that server.",
    "object store": "Correct tracking.store and tracking.s3, or start the store.",
    "mlflow round trip": "Correct tracking.mlflow, or start the server: mlflow server --backend-store-uri "
    "sqlite:///mlflow.db",
    "ray cluster": "Correct cluster.address, start the cluster (ray up ray_cluster.yaml), or use "
    "cluster.address=local.",
}


def check(
    store: str | Path | None = None,
    s3: Mapping[str, Any] | None = None,
    mlflow: str | Path | None = None,
    address: str | None = None,
    cache: Path | None = None,
    node_s: float = NODE_S,
) -> list[Check]:
    """Look at this machine and, where given, at the places that a run will use; a minute at most by default.

    Args:
        store: Address of the object store: round trip, conditional create, several writers at once.
        s3: Fields of `infra.stores.s3_settings.S3Settings`.
        mlflow: Tracking address: round trip of a run with an artifact of 1 MB.
        address: Ray cluster: its token, and what each node has and reaches; `auto` and `local` need none to run.
        cache: Folder for cached models; default `~/.cache/elder`.
        node_s: How many seconds a node of the cluster may take to answer.
    """
    place = cache or Path.home() / ".cache" / "elder"
    asked = servers(store, s3, None if mlflow is None else str(mlflow))
    with _marker(store, address) as marker:
        tried: dict[str, tuple[object, Action, float]] = {  # name -> whether, how, how long
            "device": (True, _device, 60),
            "cache folder": (True, lambda: _cache(place), 15),
            "clock": (asked, lambda: try_clock(list(asked.values())), 15),
            "object store": (store, lambda: try_store(str(store), s3), 40),
            "mlflow round trip": (mlflow, lambda: try_mlflow(str(mlflow)), 50),
            "ray cluster": (address, lambda: try_ray(str(address), asked, marker, node_s), node_s + 30),
        }
        lines = try_all(
            [Part(name, how, REMEDIES[name], time) for name, (wanted, how, time) in tried.items() if wanted]
        )
    return [_python(), *(_package(name) for name in TESTED), lines[0], *_toolchain(), *lines[1:]]


@contextmanager
def _marker(store: str | Path | None, address: str | None) -> Iterator[str | None]:
    """A file in a store that is a directory, by which nodes show that they see it; None where that says nothing."""
    from elder.infra.stores.open import open_store

    marker = None
    with ExitStack() as stack:
        if address not in (None, "auto", "local") and store is not None and not str(store).startswith("s3://"):
            with suppress(ElderError, OSError):  # reported by the line of the store
                place = Path(open_store(store).uri)
                stack.enter_context(kept_clean(place))
                place.mkdir(parents=True, exist_ok=True)
                marker = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".partial-doctor-", dir=place)).name
        yield marker


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in PYTHON)
    return Check("python", sys.version_info[:2] >= PYTHON, found, f"Use Python {wanted} or newer.")


def _package(name: str) -> Check:
    tested, extra = TESTED[name]
    found = version(name)
    if found is None:
        return Check(name, False, "not installed", f"pip install 'elder{extra}'")
    same = not tested or found == tested or found.startswith(f"{tested}.")
    return Check(name, True, found if same else f"{found} (tested with {tested})")


def _device() -> str:
    import torch

    from elder.device import accelerators, gpu_backend_built_in

    gpus = accelerators()
    if not gpus:
        return f"cpu, {torch.get_num_threads()} threads"
    together = "available" if gpu_backend_built_in() else "not in this torch"
    kinds = ", ".join(sorted({f"{name} of {memory / 2**30:.0f} GiB" for name, memory in gpus}))
    return f"{len(gpus)} x {kinds}; collectives between GPUs {together}"


def _toolchain() -> list[Check]:
    """For information only: elder's runs compile nothing."""
    # As PyTorch's extension builder looks for them; pip puts ninja beside the interpreter.
    names = os.environ.get("CXX", "").split()[:1] or COMPILERS
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    ninja = shutil.which("ninja") or shutil.which("ninja", path=Path(sys.executable).parent)
    found = {"c++ compiler": compiler, "ninja": ninja}
    return [Check(name, True, path or UNNEEDED) for name, path in found.items()]


def _cache(place: Path) -> str:
    with kept_clean(place):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"probe")
        free = shutil.disk_usage(place).free / 1e9
    if free < WANTED_GB:
        raise UnreachableError(f"{place}: only {free:.1f} GB free, {WANTED_GB} GB are wanted")
    return f"{place}, {free:.0f} GB free"
