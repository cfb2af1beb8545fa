"""Checks of a state before an editor takes it over: every fault is found before anything is changed.

Knows names, shapes and number formats; what the tensors mean is known by those who made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elder.errors import AdapterError
from elder.state import unpack_json
from elder.tensor_files import not_finite


def check_state(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], growing: Sequence[str], texts: Sequence[str]
) -> None:
    """Refuse a state that an editor cannot take over as a whole.

    Args:
        state: What is to be loaded.
        own: The editor's present state: which names there must be, of what shape and format.
        growing: Names of entries whose first dimension grows with the stream; `x.` means all that begin with it.
        texts: Names of the entries that hold JSON (see `pack_json`); they are among the growing ones.

    Raises:
        AdapterError: Entries are missing, unknown, of another shape or format, not finite, or unreadable; all of them
            are named.
    """
    wrong = [f"'{name}' is missing" for name in own if name not in state]
    wrong += [f"'{name}' is unknown" for name in state if name not in own]
    for name, tensor in own.items():
        if name in state:
            wrong += _differs(name, state[name], tensor, name in growing or f"{name.split('.')[0]}." in growing)
    wrong += [f"'{name}' is not finite" for name in not_finite(state)]
    wrong += [f"'{name}' holds no JSON" for name in texts if name in state and not _readable(state[name])]
    refuse(wrong)


def refuse(wrong: Sequence[str]) -> None:
    """Raise an error that names everything that is wrong with a state, if anything is.

    Raises:
        AdapterError: Something is wrong.
    """
    if wrong:
        raise AdapterError("the state does not fit these options: " + "; ".join(wrong))


def take(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy tensors of a checked state into parameters of the same names."""
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _differs(name: str, found: Tensor, wanted: Tensor, grows: bool) -> list[str]:
    skip = 1 if grows else 0
    if found.dim() != wanted.dim() or found.shape[skip:] != wanted.shape[skip:]:
        expected = [str(size) for size in wanted.shape]
        if grows:
            expected[0] = "any"
        return [f"'{name}' has shape {tuple(found.shape)}, expected ({', '.join(expected)})"]
    if found.dtype != wanted.dtype:
        return [f"'{name}' is {_short(found)}, expected {_short(wanted)}"]
    return []


def _readable(text: Tensor) -> bool:
    try:
        unpack_json(text)
    except (ValueError, RuntimeError):
        return False
    return True


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
