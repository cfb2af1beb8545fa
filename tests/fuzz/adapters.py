"""Adapters: manifests, tensors and options, mutated so that checksums catch it, and so that they do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from elder.adapter import load_adapter
from elder.base import Base
from elder.errors import AdapterError
from elder.hyper.trained import load_trained
from elder.infra.tracking.pointer import read_pointer
from elder.manifest import MANIFEST, WEIGHTS
from elder.state import state_digest
from tests.data.make import small_base
from tests.fuzz.judge import Case
from tests.fuzz.mutate import Untouched, as_json, mutated_bytes, mutated_value, odd_value

DATA = Path(__file__).resolve().parents[1] / "data"
METHODS = tuple(path.name for path in sorted((DATA / "adapters").iterdir()) if path.name not in ("mend", "malmen"))
POINTER = {
    "format": 1,
    "store": "s3://bucket/runs/r/stages/000001/a",
    "files": {name: {"sha256": "0" * 64, "bytes": 9} for name in (WEIGHTS, MANIFEST)},
    "s3": {"endpoint_url": "http://127.0.0.1:9", "addressing": "path"},
}


@cache
def base() -> Base:
    """The model that the adapters belong to."""
    return small_base()


def _manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    return found


def _copy(source: Path, folder: Path, manifest: Any, weights: bytes | None = None) -> None:
    (folder / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes() if weights is None else weights)
    (folder / MANIFEST).write_bytes(manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode())


def changed_manifest(rng: Random, folder: Path) -> Callable[[], object]:
    """The manifest alone."""
    source = DATA / "adapters" / rng.choice(METHODS)
    changed = as_json(rng, mutated_value(rng, _manifest(source)))
    _copy(source, folder, mutated_bytes(rng, changed) if rng.random() < 0.3 else changed)
    return lambda: load_adapter(folder, base())


def changed_file(rng: Random, folder: Path) -> Callable[[], object]:
    """The bytes of the tensors, with a manifest that knows them or does not."""
    source = DATA / "adapters" / rng.choice(METHODS)
    weights, manifest = mutated_bytes(rng, (source / WEIGHTS).read_bytes()), _manifest(source)
    if rng.random() < 0.9:
        manifest["files"][WEIGHTS]["sha256"] = hashlib.sha256(weights).hexdigest()
    _copy(source, folder, manifest, weights)
    return lambda: load_adapter(folder, base())


def changed_state(rng: Random, folder: Path) -> Callable[[], object]:
    """Other tensors, and a manifest that is right about them: only what they mean can be wrong."""
    source = DATA / "adapters" / rng.choice(METHODS)
    state, manifest = load_file(source / WEIGHTS), _manifest(source)
    for _ in range(rng.choice((1, 1, 2))):
        if isinstance(rng, Untouched):
            break
        name = rng.choice(sorted(state))
        state[name] = _other(rng, state[name])
        kind = rng.randrange(12)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[str(odd_value(rng))[:40].encode(errors="replace").decode()] = state[name].clone()
        if not state:
            break
    save_file(state, folder / WEIGHTS)
    weights = (folder / WEIGHTS).read_bytes()
    manifest |= {"state_digest": state_digest(state)}
    manifest["files"][WEIGHTS]["sha256"] = hashlib.sha256(weights).hexdigest()
    _copy(source, folder, manifest, weights)
    return lambda: load_adapter(folder, base())


def changed_options(rng: Random, folder: Path) -> Callable[[], object]:
    """Other options in the manifest."""
    source = DATA / "adapters" / rng.choice(METHODS)
    manifest = _manifest(source)
    manifest["options"] = mutated_value(rng, manifest["options"])
    _copy(source, folder, manifest)
    return lambda: load_adapter(folder, base())


def changed_trained(rng: Random, folder: Path) -> Callable[[], object]:
    """A trained editor: its manifest, or its bytes with the right checksum."""
    source = DATA / "trained" / rng.choice(("mend", "malmen"))
    manifest = _manifest(source)
    if rng.random() < 0.5:
        _copy(source, folder, as_json(rng, mutated_value(rng, manifest)))
    else:
        weights = mutated_bytes(rng, (source / WEIGHTS).read_bytes())
        manifest["files"][WEIGHTS]["sha256"] = hashlib.sha256(weights).hexdigest()
        _copy(source, folder, manifest, weights)
    return lambda: load_trained(folder)


def changed_pointer(rng: Random, folder: Path) -> Callable[[], object]:
    """A pointer to an adapter in a store; it is read, not followed."""
    changed = as_json(rng, mutated_value(rng, POINTER))
    (folder / "pointer.json").write_bytes(mutated_bytes(rng, changed) if rng.random() < 0.3 else changed)

    def call() -> object:
        pointer = read_pointer(folder)
        if pointer is None:
            raise AdapterError("it is not there, although it was written")
        return pointer.to_json()

    return call


def _other(rng: Random, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with other values, another shape, or another number format."""
    kind, flat = rng.randrange(7), tensor.reshape(-1)
    if kind == 0 or not flat.numel():
        return torch.zeros([rng.choice((0, 1, 2, 7)) for _ in range(rng.randrange(4))], dtype=tensor.dtype)
    if kind == 1:
        return tensor.to(rng.choice((torch.float16, torch.int64, torch.uint8, torch.float64)))
    if kind == 2:
        return flat[: rng.randrange(flat.numel() + 1)].clone()
    if kind == 3:
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor.reshape(1)
    changed = flat.clone()
    if tensor.is_floating_point():
        changed[rng.randrange(flat.numel())] = rng.choice((float("nan"), float("inf"), 1e30, 0.0))
    elif tensor.dtype == torch.uint8:  # mostly JSON
        content = mutated_bytes(rng, bytes(flat.tolist()))
        return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else flat[:0].clone()
    elif tensor.dtype == torch.bool:
        changed[rng.randrange(flat.numel())] ^= True
    else:
        changed[rng.randrange(flat.numel())] = rng.choice((-1, 2**31 - 1, torch.iinfo(tensor.dtype).max, 999_999))
    return changed.reshape(tensor.shape)


ADAPTERS: Mapping[str, Case] = {
    "adapters-manifest": changed_manifest,
    "adapters-file": changed_file,
    "adapters-state": changed_state,
    "adapters-options": changed_options,
    "adapters-trained": changed_trained,
    "adapters-pointer": changed_pointer,
}
