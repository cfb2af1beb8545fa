"""Ranks that are threads and hold a model as ZeRO-3 does: every forward and backward of it is a collective.

A rank that runs another one than its fellows, one more or one less, fails the test at once, where real shards would
wait for ever. Weights are whole; what is tested is that nobody is left alone with a collective.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from elder.models.anatomy import anatomy
from tests.elder.tiny import ThreadRuntime


class Parted(AssertionError):
    """The ranks did not do the same."""


class StrictRuntime(ThreadRuntime):
    """One of the ranks.

    Attributes:
        done: Names of all collectives so far.
    """

    sharded = True

    def __init__(self, rank: int, world_size: int, group: dict[str, Any]) -> None:
        super().__init__(rank, world_size, group)
        self.done: list[str] = []
        self._apart = False

    def prepare(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(lambda *_: self._meet("forward"))
        for number, module in enumerate(anatomy(model).mlp_out):  # one of the modules that hold shards, in each block
            module.register_forward_hook(lambda _, __, out, number=number: self._passes(number, out))

    def gather_objects(self, item: Any) -> list[Any]:
        return self._meet("objects", item)

    def sum(self, tensor: Tensor) -> Tensor:
        met = self._meet(f"sum of {tuple(tensor.shape)}", tensor.detach().clone())
        return tensor if met is None else tensor.copy_(sum(met))

    @contextmanager
    def gathered(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        self._meet(f"weights of {[tuple(p.shape) for p in parameters]}")
        yield

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        """The real one keeps ranks in step itself (see `tests/cluster/test_in_step.py`); here they meet at its end."""
        self._apart = True
        found = super().generate(model, **kwargs)
        self._apart = False
        self._meet("generation")
        return found

    def _passes(self, number: int, out: Tensor) -> None:
        self._meet(f"block {number}")
        if out.requires_grad:
            out.register_hook(lambda _: self._meet(f"backward {number}"))

    def _meet(self, name: str, item: Any = None) -> Any:
        if self._apart:
            return None
        self.done.append(name)
        try:
            met = super().gather_objects((name, item))
        except threading.BrokenBarrierError:
            raise Parted(f"rank {self.rank} is alone with '{name}', its collective number {len(self.done)}") from None
        if len({other for other, _ in met}) > 1:
            raise Parted(f"collective {len(self.done)}: {[other for other, _ in met]}")
        # As hooks, meetings must return nothing that could stand for an output.
        return [theirs for _, theirs in met] if item is not None or name == "objects" else None


def on_strict_ranks(program: Any, world_size: int) -> list[Any]:
    """Run `program(runtime)` on all ranks; raises `Parted` when one of them waits alone."""
    group = {"items": [None] * world_size, "barrier": threading.Barrier(world_size, timeout=20)}
    results: list[Any] = [None] * world_size
    errors: list[BaseException] = []

    def main(rank: int) -> None:
        try:
            results[rank] = program(StrictRuntime(rank, world_size, group))
        except BaseException as error:
            errors.append(error)
        finally:
            if results[rank] is None:
                group["barrier"].abort()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise _first(errors)
    return results


def _first(errors: Sequence[BaseException]) -> BaseException:
    """What is wrong, rather than what others made of it."""
    return next((e for e in errors if not isinstance(e, Parted) or "collective " in str(e)[:11]), errors[0])
