"""The machine as an editor sees it: one process, or several that hold the model together.

Editors and metrics use the `Runtime` protocol and do not know which of the two they run on. Knows nothing of Ray or
DeepSpeed; their implementation is in `pipelines/cluster/deepspeed_runtime.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from elder.errors import ElderError

T = TypeVar("T")


class Runtime(Protocol):
    """A group of `world_size` processes that run the same program on (shards of) the same base model.

    Every method that talks to the other ranks is collective: all ranks call it, in the same order.
    The adapters are replicated on every rank (they are megabytes); only base weights are sharded.
    """

    rank: int
    world_size: int
    device: torch.device
    sharded: bool  # True when base weights are partitioned, so that every forward is collective

    def loading(self, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """Context in which `from_pretrained` may shard the base model while it is read, in this number format."""

    def local(self, parameter: nn.Parameter) -> Tensor:
        """The values of a base parameter that this rank holds: all of them, or its shard, flat and without padding."""

    def prepare(self, model: nn.Module) -> None:
        """Make a model that was built or loaded under `loading()` ready to run, in place."""

    def gathered(self, parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
        """Context in which the given base parameters are whole on every rank, for reading."""

    def kept(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Context of many passes, in which a small sharded model may be whole on every rank, to be gathered once."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; returns the tensor."""

    def gather_objects(self, item: Any) -> list[Any]:
        """One picklable object from every rank, in rank order, on every rank."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        """`model.generate` with the ranks kept in step when the model is sharded."""


class LocalRuntime:
    """One process that holds the whole model: every collective is the identity."""

    rank = 0
    world_size = 1
    sharded = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def loading(self, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """Nothing to arrange."""
        return nullcontext()

    def local(self, parameter: nn.Parameter) -> Tensor:
        """All of it."""
        return parameter.detach()

    def prepare(self, model: nn.Module) -> None:
        """Nothing to arrange: the model is whole and on its device."""

    def gathered(self, parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
        """Nothing to arrange: parameters are whole."""
        return nullcontext()

    def kept(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Nothing to arrange: the model is whole."""
        return nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather_objects(self, item: Any) -> list[Any]:
        """A list of the one item."""
        return [item]

    def barrier(self) -> None:
        """Nobody to wait for."""

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        """`model.generate` as it is."""
        return model.generate(**kwargs)  # type: ignore[operator,no-any-return]


def share(items: Sequence[Any], runtime: Runtime) -> list[Any]:
    """The items of this rank, dealt in turn: rank r gets items r, r + W, r + 2W, ...

    The shares differ in length by at most one; `rounds(len(items), runtime)` is the longest.
    """
    return list(items[runtime.rank :: runtime.world_size])


def rounds(count: int, runtime: Runtime) -> int:
    """Length of the longest share of `count` items: every rank must run so many forwards to stay in step."""
    return -(-count // runtime.world_size)


def merge_shares(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Undo `share`: the items of all ranks in their original order."""
    merged: list[Any] = []
    for position in range(max((len(part) for part in shares), default=0)):
        merged.extend(part[position] for part in shares if position < len(part))
    return merged


def told_by_first(call: Callable[[], T], runtime: Runtime) -> T:
    """The result of `call` on rank 0, on every rank: for what only one rank should read, ask or write. Collective.

    Args:
        call: Runs on rank 0 only; what it returns must be picklable.
        runtime: The group.

    Raises:
        ElderError: That of rank 0, on every rank, so that no rank waits for it.
    """
    found: T | None = None
    failed: ElderError | None = None
    if runtime.rank == 0:
        try:
            found = call()
        except ElderError as error:
            failed = error
    if runtime.world_size > 1:
        found, failed = runtime.gather_objects((found, failed))[0]
    if failed is not None:
        raise failed
    return found  # type: ignore[return-value]


def together(call: Callable[[], T], runtime: Runtime) -> T:
    """The result of `call` on this rank, if it succeeds on all ranks. Collective; `call` itself must not be.

    For what every rank does alone, such as looking into its own files: no rank continues, and waits in the next
    collective, while another one has found a reason to stop.

    Raises:
        ElderError: That of the first rank that met one, on every rank.
    """
    found: T | None = None
    failed: ElderError | None = None
    try:
        found = call()
    except ElderError as error:
        failed = error
    if runtime.world_size > 1:
        failed = next((error for error in runtime.gather_objects(failed) if error is not None), None)
    if failed is not None:
        raise failed
    return found  # type: ignore[return-value]


def tensors_by_first(call: Callable[[], Sequence[Tensor]], runtime: Runtime, together: bool = False) -> list[Tensor]:
    """The tensors that `call` returns on rank 0, on every rank, bit for bit. Collective.

    Every rank could compute them alone, but on processors of two kinds the last bits would differ, and a limit that
    one rank just meets another may just miss. Shapes are sent as objects, numbers by one sum each, to which the other
    ranks add zeros; this moves less data than gathering objects.

    Args:
        call: Returns tensors; the other ranks need not know how many or of which shapes.
        runtime: The group.
        together: `call` is collective itself: all ranks run it, and the result of rank 0 counts.

    Raises:
        ElderError: That of rank 0, on every rank.
    """
    made: list[Tensor] = []

    def shapes() -> list[tuple[tuple[int, ...], torch.dtype]]:
        made.extend(tensor.detach() for tensor in call())
        return [(tuple(tensor.shape), tensor.dtype) for tensor in made]

    if together and runtime.rank:
        with suppress(ElderError):
            call()
    found = told_by_first(shapes, runtime)
    if runtime.world_size == 1:
        return made
    return [
        _sent(made[number] if runtime.rank == 0 else None, shape, dtype, runtime)
        for number, (shape, dtype) in enumerate(found)
    ]


def _sent(own: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, runtime: Runtime) -> Tensor:
    """A tensor of rank 0 on every rank, on its device; booleans are sent as bytes, which can be summed."""
    sent_as = torch.uint8 if dtype == torch.bool else dtype
    tensor = torch.zeros(shape, dtype=sent_as, device=runtime.device)
    if own is not None:
        tensor.copy_(own)
    return (runtime.sum(tensor) if tensor.numel() else tensor).to(dtype)


def keep_alike(tensors: Sequence[Tensor], runtime: Runtime) -> bool:
    """Give replicas that different processors have rounded apart the bits of rank 0, in place. Collective.

    While they agree, as on processors of one kind, each rank sends one number only.

    Returns:
        Whether they had drifted.
    """
    if runtime.world_size == 1:
        return False
    marks = runtime.gather_objects(int(sum(fingerprint(t) * (2 * i + 1) for i, t in enumerate(tensors))))
    if len(set(marks)) == 1:
        return False
    with torch.no_grad():
        for tensor, first in zip(tensors, tensors_by_first(lambda: tensors, runtime), strict=True):
            tensor.copy_(first)
    return True


INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size, to look at bits as numbers
PIECE = 1 << 20


def fingerprint(tensor: Tensor) -> int:
    """A number that depends on every bit of a tensor and its place; computed on the tensor's device."""
    flat = tensor.detach().reshape(-1)
    if flat.device.type == "cpu":
        return zlib.crc32(flat.view(torch.uint8).numpy().data) if len(flat) else 0
    return weighed(flat)


def weighed(flat: Tensor) -> int:
    """A fingerprint of a vector without moving it: its bits as numbers, weighed by place, a piece at a time."""
    bits = flat.view(INTEGERS[flat.element_size()])
    places = torch.arange(1, min(PIECE, max(1, len(bits))) + 1, device=bits.device) * 0x9E3779B1
    total = torch.zeros((), dtype=torch.long, device=bits.device)
    for piece in torch.split(bits, PIECE):
        total = total * 31 + (piece.long() * places[: len(piece)]).sum()  # wraps around, everywhere alike
    return int(total)
