"""Weight changes that are kept beside the weights: added to the output of a map, switched off to the bit.

The base weights are never written, so a change is undone by leaving it out, and the base may be in bfloat16 or sharded.
Each batch of edits adds one pair of factors; the pairs, in order, are the state. Other threads do not see what one
thread switches off, tries or has not completed. Knows nothing of how a change is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.errors import AdapterError
from elder.scoped import Scoped, eager

Key = TypeVar("Key", int, str)


@dataclass
class Delta:
    """The change D (d, m) of one map as a sum of low-rank factors, in float32.

    Attributes:
        dense: D as it is applied.
        left: (d, N), the batches side by side.
        right: (N, m), the batches one below the other.
        sizes: Rank of each batch.
    """

    dense: Tensor
    left: Tensor
    right: Tensor
    sizes: list[int] = field(default_factory=list)
    _room: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _elsewhere: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)  # D, for models that were moved

    @classmethod
    def zero(cls, d: int, m: int, device: torch.device) -> Delta:
        """No change yet."""
        return cls(torch.zeros(d, m, device=device), torch.zeros(d, 0, device=device), torch.zeros(0, m, device=device))

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add `left @ right`, (d, n) and (n, m). The dense sum is made in this order, here and after loading."""
        left, right = left.to(self.dense), right.to(self.dense)
        self.dense, self._elsewhere = self.dense + left @ right, {}
        count = len(self.right)
        room_left, room_right = self._with_room(count, left.shape[1])
        room_left[count : count + left.shape[1]], room_right[count : count + len(right)] = left.T, right
        self.left, self.right = room_left[: count + left.shape[1]].T, room_right[: count + len(right)]
        self.sizes.append(left.shape[1])

    def dense_on(self, device: torch.device) -> Tensor:
        """D on a device, copied there once."""
        if device == self.dense.device:
            return self.dense
        if device not in self._elsewhere:
            self._elsewhere[device] = self.dense.to(device)
        return self._elsewhere[device]

    def draft(self) -> Delta:
        """The same change, to be added to without this one being changed."""
        return replace(self, sizes=list(self.sizes), _elsewhere={})

    def _with_room(self, count: int, more: int) -> tuple[Tensor, Tensor]:
        """Buffers that begin with the factors and have room after them, so that adding copies nothing.

        A quarter more than needed is allocated. Restored factors are at the beginning of the buffers as before.
        """
        known = self._room is not None and self._room[1].data_ptr() == self.right.data_ptr() and count > 0
        if self._room is None or not known or len(self._room[1]) < count + more:
            size = count + more + max(more, (count + more) // 4)
            fresh = self.left.new_empty(size, len(self.left)), self.right.new_empty(size, self.right.shape[1])
            fresh[0][:count], fresh[1][:count] = self.left.T, self.right
            self._room = fresh
        return self._room


class Deltas(Generic[Key]):
    """The changes of several maps of a clone, and one switch for all.

    Args:
        maps: Block, or the name of a map -> the map whose output is changed.
        sizes: The same -> (m, d) of the map.
        device: Where changes live.
    """

    def __init__(
        self, maps: Mapping[Key, nn.Module], sizes: Mapping[Key, tuple[int, int]], device: torch.device
    ) -> None:
        self._of: dict[Key, Delta] = {k: Delta.zero(sizes[k][1], sizes[k][0], device) for k in maps}
        self._draft: Scoped[dict[Key, Delta] | None] = Scoped(None)
        self._active: Scoped[bool] = Scoped(True)
        self.attach(maps)

    def attach(self, maps: Mapping[Key, nn.Module]) -> None:
        """Change the output of these maps too: the same maps of another clone."""
        for layer, module in maps.items():
            module.register_forward_hook(partial(self._hook, layer))

    @property
    def of(self) -> dict[Key, Delta]:
        """The change of each map, as this thread sees it."""
        draft = self._draft.get()
        return self._of if draft is None else draft

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Nothing is added inside the block: outputs are the base model's to the bit."""
        with self._active.holding(False):
            yield

    @contextmanager
    def trying(self, dense: Mapping[Key, Tensor]) -> Iterator[None]:
        """These changes (d, m), and no others, are active inside the block; gradients pass to the blocks below."""
        tried = {key: Delta(dense[key], old.left, old.right, [0]) for key, old in self.of.items()}
        with self._draft.holding(tried):
            yield

    def put(self, dense: Mapping[Key, Tensor]) -> None:
        """Let the changes be these (d, m) from the next pass on; their factors, and what they were, are not kept."""
        self._of = {k: replace(old, dense=dense[k], sizes=[0], _elsewhere={}) for k, old in self._of.items()}

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Changes that are added inside the block count as a whole when it ends, and not at all if it raises."""
        draft = {key: delta.draft() for key, delta in self._of.items()}
        with self._draft.holding(draft):
            yield
        self._of = draft

    def state_dict(self) -> dict[str, Tensor]:
        """Factors of all maps, on the CPU."""
        state: dict[str, Tensor] = {}
        for layer, delta in self.of.items():
            state[f"delta.{layer}.left"] = delta.left.cpu().clone(memory_format=torch.contiguous_format)
            state[f"delta.{layer}.right"] = delta.right.cpu().clone()
        return state

    def load(self, state: Mapping[str, Tensor], sizes: Mapping[Key, Sequence[int]]) -> None:
        """Take factors over and add them up again as they came, so that the sums have the same bits.

        Raises:
            AdapterError: Factors and sizes do not go together.
        """
        fresh = {}
        for layer, delta in self.of.items():
            left, right = state[f"delta.{layer}.left"], state[f"delta.{layer}.right"]
            if not left.shape[1] == right.shape[0] == sum(sizes[layer]):
                raise AdapterError(f"the factors of block {layer} do not add up to the batches of the cursor")
            again = Delta.zero(delta.dense.shape[0], delta.dense.shape[1], delta.dense.device)
            own = list(sizes[layer])
            for a, b in zip(torch.split(left, own, 1), torch.split(right, own), strict=True):
                again.add(a, b)
            fresh[layer] = again
        self._of = fresh

    @eager  # changes are looked up anew in every pass
    def _hook(self, layer: Key, _: nn.Module, args: tuple[Tensor, ...], out: Any) -> Any:
        return self._apply(layer, args[0], out)

    def _apply(self, layer: Key, x: Tensor, out: Any) -> Any:
        delta = self.of[layer]
        if not self._active.get() or not delta.sizes:
            return None
        dense = delta.dense_on(x.device)
        return out + F.linear(x.to(dense.dtype), dense).to(out.dtype)
