"""Weight changes that are held beside the weights: added to the output of a map, switched off to the bit.

The base weights are never written, so undoing is leaving out, and a base in bfloat16 or in shards is no matter. Each
batch of edits adds one pair of factors; the pairs, in order, are the state. Knows nothing of how a change is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.errors import AdapterError

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

    @classmethod
    def zero(cls, d: int, m: int, device: torch.device) -> Delta:
        """No change yet."""
        return cls(torch.zeros(d, m, device=device), torch.zeros(d, 0, device=device), torch.zeros(0, m, device=device))

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add `left @ right`, (d, n) and (n, m). The dense sum is made in this order, here and after loading."""
        left, right = left.to(self.dense), right.to(self.dense)
        self.dense = self.dense + left @ right
        held = len(self.right)
        room_left, room_right = self._with_room(held, left.shape[1])
        room_left[held : held + left.shape[1]], room_right[held : held + len(right)] = left.T, right
        self.left, self.right = room_left[: held + left.shape[1]].T, room_right[: held + len(right)]
        self.sizes.append(left.shape[1])

    def _with_room(self, held: int, more: int) -> tuple[Tensor, Tensor]:
        """Buffers that begin with the factors and have room behind them, so that adding does not copy what is there.

        A quarter more is kept than is needed. Factors that were put back are at the beginning of the buffers as before.
        """
        known = self._room is not None and self._room[1].data_ptr() == self.right.data_ptr() and held > 0
        if self._room is None or not known or len(self._room[1]) < held + more:
            size = held + more + max(more, (held + more) // 4)
            fresh = self.left.new_empty(size, len(self.left)), self.right.new_empty(size, self.right.shape[1])
            fresh[0][:held], fresh[1][:held] = self.left.T, self.right
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
        self.of: dict[Key, Delta] = {k: Delta.zero(sizes[k][1], sizes[k][0], device) for k in maps}
        self._active: bool = True
        for layer, module in maps.items():
            module.register_forward_hook(partial(self._hook, layer))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Nothing is added inside the block: outputs are the base model's to the bit."""
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    @contextmanager
    def trying(self, dense: Mapping[Key, Tensor]) -> Iterator[None]:
        """These changes (d, m), and no others, are active inside the block; gradients pass to what lies below."""
        before = self.of
        self.of = {key: Delta(dense[key], old.left, old.right, [0]) for key, old in before.items()}
        try:
            yield
        finally:
            self.of = before

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """What is added in the block is taken back if the block raises."""
        before = {key: (d.dense, d.left, d.right, list(d.sizes)) for key, d in self.of.items()}
        try:
            yield
        except BaseException:
            for key, (dense, left, right, sizes) in before.items():
                delta = self.of[key]
                delta.dense, delta.left, delta.right, delta.sizes = dense, left, right, sizes
            raise

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
        self.of = fresh

    def _hook(self, layer: Key, _: nn.Module, args: tuple[Tensor, ...], out: Any) -> Any:
        return self._apply(layer, args[0], out)

    def _apply(self, layer: Key, x: Tensor, out: Any) -> Any:
        delta = self.of[layer]
        if not self._active or not delta.sizes:
            return None
        return out + F.linear(x.to(delta.dense.dtype), delta.dense).to(out.dtype)
