"""Back to an earlier batch of edits from one state: the factors of every batch are kept, in order.

Knows nothing of stages; a stage that was committed can be pulled as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from elder.editors.weights.written import WrittenEditor
from elder.errors import ConfigError
from elder.state import pack_json, unpack_json


def rolled_back(editor: Any, edits: int) -> Any:
    """A second editor on the same base, in the state in which the first one was after so many edits, to the bit.

    Args:
        editor: Of a method that holds changes of weights; not changed.
        edits: Where a batch ended; 0 is the unedited model.

    Raises:
        ConfigError: Another method, or no batch ended there.
    """
    if not isinstance(editor, WrittenEditor):
        raise ConfigError(
            f"{editor.method} keeps no earlier states (only methods that change weights do); pull an earlier stage "
            "instead: elder pull runs:/RUN/stage-0001 DIR"
        )
    earlier = editor.empty_copy()
    if edits:
        earlier.load_state_dict(state_after(editor.state_dict(), edits))
    return earlier


def state_after(state: Mapping[str, Tensor], edits: int) -> dict[str, Tensor]:
    """The state that an editor had after so many edits, from a later one.

    Raises:
        ConfigError: No batch ended there.
    """
    cursor = unpack_json(state["cursor"])
    # Where a column of the factors is one edit, the sizes of the batches say where they ended.
    ends = cursor["ends"] if "ends" in cursor else list(accumulate(next(iter(cursor["sizes"].values()))))
    if edits not in ends:
        near = sorted(ends, key=lambda end: abs(end - edits))[:2]
        raise ConfigError(
            f"no batch ended after {edits} edits; of {ends[-1] if ends else 0} the nearest ends are "
            f"{' and '.join(map(str, sorted(near))) or 'none'}"
        )
    batches = ends.index(edits) + 1
    kept = {key: own[:batches] for key, own in cursor["sizes"].items()}
    changed = {"edits": edits, "batches": batches, "sizes": kept}
    if "ends" in cursor:
        changed["ends"] = ends[:batches]
    earlier = {n: _cut(n, t, kept, batches) for n, t in state.items() if n != "cursor"}
    earlier["cursor"] = pack_json({**cursor, **changed})
    return earlier


def _cut(name: str, tensor: Tensor, sizes: Mapping[str, list[int]], batches: int) -> Tensor:
    """The part of an entry that was there then: factors and keys grow by ranks of batches, statistics by a row."""
    kind, _, rest = name.partition(".")
    side = rest.rpartition(".")[2] if kind == "delta" else ""
    rows = batches if kind == "statistics" else sum(sizes[rest.rpartition(".")[0] if kind == "delta" else rest])
    part = tensor[:, :rows] if side == "left" else tensor[:rows]
    return part.clone(memory_format=torch.contiguous_format)
