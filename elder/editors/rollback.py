"""Back to an earlier batch of edits from one state: the factors of every batch are kept, in order.

Knows nothing of stages; a stage that was committed can be pulled as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from elder.editors.base import pack_json, unpack_json
from elder.errors import ConfigError

METHODS = ("rome", "memit", "emmet", "alphaedit")  # one column of the factors is one edit


def rolled_back(editor: Any, edits: int) -> Any:
    """A second editor on the same base, in the state in which the first one was after so many edits, to the bit.

    Args:
        editor: Of rome, memit, emmet or alphaedit; not changed.
        edits: Where a batch ended; 0 is the unedited model.

    Raises:
        ConfigError: Another method, or no batch ended there.
    """
    if editor.method not in METHODS:
        raise ConfigError(
            f"{editor.method} keeps no earlier states (only {', '.join(METHODS)} do); pull an earlier stage instead: "
            "elder pull runs:/RUN/stage-0001 DIR"
        )
    fresh = type(editor)(editor.base, editor.options)
    fresh.statistics = dict(editor.statistics)
    if edits:
        fresh.load_state_dict(state_after(editor.state_dict(), edits))
    return fresh


def state_after(state: Mapping[str, Tensor], edits: int) -> dict[str, Tensor]:
    """The state that a locate-then-edit editor had after so many edits, from a later one.

    Raises:
        ConfigError: No batch ended there.
    """
    cursor = unpack_json(state["cursor"])
    sizes = next(iter(cursor["sizes"].values()))
    ends = list(accumulate(sizes))
    if edits not in ends:
        near = sorted(ends, key=lambda end: abs(end - edits))[:2]
        raise ConfigError(
            f"no batch ended after {edits} edits; of {ends[-1] if ends else 0} the nearest ends are "
            f"{' and '.join(map(str, sorted(near))) or 'none'}"
        )
    batches = ends.index(edits) + 1
    kept = {layer: own[:batches] for layer, own in cursor["sizes"].items()}
    earlier = {name: _cut(name, tensor, edits) for name, tensor in state.items() if name != "cursor"}
    earlier["cursor"] = pack_json({**cursor, "edits": edits, "batches": batches, "sizes": kept})
    return earlier


def _cut(name: str, tensor: Tensor, edits: int) -> Tensor:
    part = tensor[:, :edits] if name.endswith(".left") else tensor[:edits]
    return part.clone(memory_format=torch.contiguous_format)
