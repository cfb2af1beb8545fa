"""An edited model as an ordinary model directory: the changes of a weight editor added to the weights, once.

The base in memory is not changed. Knows nothing of how changes are found, or where adapters come from.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from elder.base import Editor
from elder.errors import ConfigError, ModelError
from elder.paths import user_path
from elder.runtime import told_by_first

__all__ = ["Merged", "check_target", "export_merged"]

SPARE = 1.1  # free disk that is asked for, in sizes of the model
VANISHING = 0.5  # share of an update, lost in the base's number format, above which an export is refused


@dataclass(frozen=True)
class Merged:
    """One matrix that was changed.

    Attributes:
        name: Of the parameter.
        size: ||D||.
        lost: ||cast(W + D) - (W + D)|| / ||D||, what the base's number format takes away.
    """

    name: str
    size: float
    lost: float


def export_merged(
    editor: Editor, directory: str | Path, force: bool = False, progress: Callable[[str], None] | None = None
) -> list[Merged]:
    """Write what `AutoModelForCausalLM.from_pretrained` loads: weights with the edits in them, config, tokenizer.

    Sums are made in float32 and cast once to the base's format. Appears as a whole or not at all. Collective under
    sharding: every rank calls it, one matrix at a time is gathered, rank 0 writes.

    Args:
        editor: Of a method that changes weights.
        directory: A new or empty directory.
        force: Also when most of an update is lost in the base's number format.
        progress: Called with the name of each parameter.

    Raises:
        ConfigError: The method's edits are no change of weights; or the directory is not empty or too small.
        ModelError: An edited matrix is shared with another part, or most of an update would be lost.
    """
    changes = _changes(editor)
    runtime, first = editor.base.runtime, editor.base.runtime.rank == 0
    target = Path(told_by_first(lambda: _checked(editor, directory), runtime))
    weights, merged, seen = {}, [], dict[int, str]()
    for name, parameter in editor.base.model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            if name in changes or seen[id(parameter)] in changes:
                raise ModelError(
                    f"{name} and {seen[id(parameter)]} are one matrix: edits of one would change the other"
                )
            continue
        seen[id(parameter)] = name
        with runtime.gathered([parameter]):
            whole = parameter.detach().to("cpu", copy=True)
        if name in changes:
            whole, note = _add(name, whole, changes[name])
            merged.append(note)
        if first:
            weights[name] = whole
        if progress is not None:
            progress(name)
    merged = told_by_first(lambda: merged if force else _kept(merged, editor.base.model.dtype), runtime)
    failure = ""
    if first:
        try:
            _write(editor, target, weights)
        except (OSError, SafetensorError) as error:  # a full disk raises either
            failure = f"{target} cannot be written: {getattr(error, 'strerror', None) or error}"
    failure = runtime.gather_objects(failure)[0]
    if failure:
        raise ConfigError(failure)
    return merged


def _kept(merged: list[Merged], dtype: torch.dtype) -> list[Merged]:
    """The same notes, unless most of an update is lost.

    Raises:
        ModelError: Most of one is lost.
    """
    gone = [note for note in merged if note.lost > VANISHING]
    if gone:
        worst = max(gone, key=lambda note: note.lost)
        raise ModelError(
            f"{len(gone)} of {len(merged)} updates would vanish in {dtype}: of {worst.name} "
            f"{worst.lost:.0%} is lost to rounding. Edit and export in float32, or force it"
        )
    return merged


def _changes(editor: Any) -> dict[str, Tensor]:
    """Parameter name -> what is added to it, as it is stored.

    Raises:
        ConfigError: The method does not change weights.
    """
    deltas = getattr(editor, "deltas", None)
    if deltas is None:
        raise ConfigError(
            f"{editor.method} cannot be merged: its edits act on the inputs they are about and leave others alone, "
            "which no change of weights can do. Use the adapter (elder.load_edited), or a weight editor such as memit"
        )
    names = {id(module): name for name, module in editor.model.named_modules()}
    found = {}
    for key, delta in deltas.of.items():
        if delta.sizes:
            dense = delta.dense.detach().float().cpu()
            module = editor.edits.maps[key]
            found[f"{names[id(module)]}.weight"] = dense.T if isinstance(module, Conv1D) else dense
    return found


def _add(name: str, weight: Tensor, change: Tensor) -> tuple[Tensor, Merged]:
    wanted = weight.float() + change
    stored = wanted.to(weight.dtype)
    size = float(change.norm())
    lost = float((stored.float() - wanted).norm()) / size if size else 0.0
    return stored.contiguous(), Merged(name, size, lost)


def check_target(directory: str | Path) -> Path:
    """Where a model may be written; asked before anything is loaded.

    Raises:
        ConfigError: It exists and is not empty, or it cannot be read.
    """
    target = user_path(directory).absolute()
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise ConfigError(f"{target} cannot be read: {error.strerror or error}") from error
    if taken:
        raise ConfigError(f"{target} exists and is not empty. Name a new directory, or remove this one first.")
    return target


def _checked(editor: Editor, directory: str | Path) -> str:
    target = check_target(directory)
    place = next(parent for parent in target.parents if parent.exists())
    needed = int(SPARE * sum(_bytes(p) for p in editor.base.model.parameters()))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ConfigError(f"{place} has {free:,} bytes free, the model needs {needed:,}")
    return str(target)


def _bytes(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel())) * int(parameter.element_size())


def _write(editor: Editor, target: Path, weights: dict[str, Tensor]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model = editor.base.model
        state = weights | {n: b.cpu() for n, b in model.state_dict().items() if n not in weights and b.numel()}
        for name, other in _tied(model).items():
            state[name] = weights[other]
        model.save_pretrained(hidden, state_dict=state)
        editor.base.tokenizer.save_pretrained(hidden)
        hidden.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.rename(hidden, target)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _tied(model: Any) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return tied
