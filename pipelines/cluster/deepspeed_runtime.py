"""A group of processes that hold one base model together: data parallel, or sharded with DeepSpeed ZeRO-3.

With `deepspeed_private.py` the one file that imports deepspeed. It implements `elder.runtime.Runtime`; it knows nothing
of editors, stages or stores. torch.distributed must be initialised (Ray Train does) before a runtime is made.

Only the frozen base is sharded. Adapters are megabytes: every rank has all of them, outside of the
sharded module tree, and editors add up their gradients themselves through `Runtime.sum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elder.models.host_memory import give_back_memory
from elder.pipelines.cluster.deepspeed_private import (
    drop_leftovers,
    held_whole,
    is_held,
    partition,
    record_nothing,
)

SHARDINGS = ("none", "zero2", "zero3")


class DataParallelRuntime:
    """Every rank holds the whole base model; only sums and objects travel.

    It serves `none` and `zero2`: ZeRO-2 partitions gradients and optimizer states of trained weights, and
    with a frozen base there are none. What is trained (the adapters) belongs to the editor and is small.
    """

    sharded = False

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def loading(self, dtype: torch.dtype | None = None) -> AbstractContextManager[Any]:
        """Nothing to arrange: every rank maps the whole model into its memory."""
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
        """Sum over ranks, in place; every rank gets the same bits."""
        if tensor.device == self.device and tensor.is_contiguous():
            dist.all_reduce(tensor)
            return tensor
        travelling = tensor.detach().to(self.device).contiguous()
        dist.all_reduce(travelling)
        with torch.no_grad():
            tensor.copy_(travelling)
        return tensor

    def gather_objects(self, item: Any) -> list[Any]:
        """One picklable object from every rank, in rank order, on every rank."""
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        """`model.generate` as it is: ranks need not keep step."""
        return model.generate(**kwargs)  # type: ignore[operator,no-any-return]


class DeepSpeedRuntime(DataParallelRuntime):
    """The base model is partitioned over the ranks with ZeRO-3: each holds about 1/W of every weight.

    DeepSpeed's module hooks gather a layer's weights just before its forward or backward and drop them
    behind it, so gradients pass through frozen, partitioned layers to adapters that live elsewhere.
    Every forward and every backward of a prepared model is therefore collective, and so is reading a weight.

    Args:
        device: The device of this rank.
        dtype: The number format of models that are loaded without being asked for another one.
        persistence_threshold: Weights of at most so many elements stay whole on every rank (norms, biases);
            0 shards everything.
        keep_below: Models of at most so many weights are brought together once for a block of passes (`kept`), others
            layer by layer for each pass.
    """

    sharded = True

    def __init__(
        self,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        persistence_threshold: int = 0,
        keep_below: int = 0,
    ) -> None:
        super().__init__(device)
        self._dtype, self._threshold, self._keep_below = dtype, persistence_threshold, keep_below
        self._offloads: WeakSet[Any] = WeakSet()  # one for each prepared model that is still alive
        _take_over_process_group()

    @contextmanager
    def loading(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """`from_pretrained` inside this block shards the model while it reads it; rank 0 reads the values.

        transformers looks the setting up through a global weak reference; it is taken back at the end of
        the block, so that other models built in this process stay whole.

        Args:
            dtype: The number format that `from_pretrained` is asked for: DeepSpeed looks into its own setting instead.
        """
        from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

        alive = HfDeepSpeedConfig(zero3_config(dtype or self._dtype, self._threshold))  # type: ignore[no-untyped-call]
        try:
            with _ties_by_value():
                yield
        finally:
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
            del alive
            give_back_memory()

    def local(self, parameter: nn.Parameter) -> Tensor:
        """The shard of this rank: the last ones are filled up to equal length, with whatever was in memory."""
        shard: Tensor | None = getattr(parameter, "ds_tensor", None)
        if shard is None:
            return parameter.detach()
        whole, begin = int(parameter.ds_numel), self.rank * shard.numel()  # type: ignore[attr-defined]
        return shard.detach().reshape(-1)[: max(0, min(shard.numel(), whole - begin))]

    def prepare(self, model: nn.Module) -> None:
        """Install the hooks that gather and release; parameters that are whole yet are partitioned first.

        Args:
            model: A frozen model. It must not have been prepared before; another module tree that shares its
                parameters may have been.
        """
        offload = partition(model, zero3_config(next(model.parameters()).dtype, self._threshold), self._threshold)
        record_nothing(offload, self._drop_leftovers)
        self._offloads.add(offload)
        object.__setattr__(model, "elder_zero3", offload)  # the hooks live as long as the model

    def _drop_leftovers(self) -> None:
        drop_leftovers(self._offloads)

    @contextmanager
    def gathered(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """The given base parameters are whole inside the block, on every rank, for reading only."""
        import deepspeed

        self._drop_leftovers()
        with deepspeed.zero.GatheredParameters([p for p in parameters if hasattr(p, "ds_id") and not is_held(p)]):
            yield

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """A small model is whole inside the block, on every rank; blocks may be nested. Collective.

        Otherwise every pass gathers every layer: for a token of an answer that takes ten times as long as computing
        it, where the ranks meet through a CPU's memory.
        """
        self._drop_leftovers()
        parameters: list[Any] = [p for p in dict.fromkeys(model.parameters()) if hasattr(p, "ds_id")]
        small = sum(int(p.ds_numel) for p in parameters) <= self._keep_below
        if not parameters or not small or is_held(parameters[0]):
            yield
            return
        with held_whole(parameters):
            try:
                yield
            finally:
                self._drop_leftovers()

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        """`model.generate`; a rank that has finished runs single tokens until all have.

        transformers' own way (`synced_gpus`) goes on counting a finished row's positions, past the end of the context
        where the prompt nearly fills it: an index error on models whose positions are a table.
        """

        def step(*_: Any) -> None:
            self._any_runs(True)

        with self.kept(model):
            handle = model.register_forward_pre_hook(step, prepend=True)  # before DeepSpeed's, which gather
            try:
                found: Tensor = model.generate(**kwargs, synced_gpus=False)  # type: ignore[operator]
            finally:
                handle.remove()
            with torch.no_grad():
                while self._any_runs(False):
                    model(input_ids=kwargs["input_ids"][:1, :1], use_cache=False)
        return found

    def _any_runs(self, mine: bool) -> bool:
        """Whether any rank has a forward to run. Collective."""
        running = torch.tensor([float(mine)], device=self.device)
        dist.all_reduce(running)
        return bool(running)


def zero3_config(dtype: torch.dtype, persistence_threshold: int) -> dict[str, Any]:
    """What DeepSpeed is told. Batch sizes are a formality: the editor batches."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": persistence_threshold,
            "stage3_prefetch_bucket_size": 0,
        },
    }


@contextmanager
def _ties_by_value() -> Iterator[None]:
    """Two parameters that a config ties are one only if their values are the same, also when they are partitioned.

    transformers ties what the files hold twice if it is equal. It compares what the parameters hold in this process:
    under ZeRO-3 two empty tensors, which are always equal, so an `lm_head` of its own was lost.
    """
    home: Any = import_module("transformers.modeling_utils")
    compare = getattr(home, "_tied_params_are_equal", None)
    if compare is None:  # another release, which has mended it or does it elsewhere; tests/cluster/test_loading.py
        yield
        return

    def compare_whole(first: Any, second: Any) -> bool:
        import deepspeed

        with deepspeed.zero.GatheredParameters([p for p in (first, second) if hasattr(p, "ds_id")]):
            return bool(compare(first, second))

    home._tied_params_are_equal = compare_whole
    try:
        yield
    finally:
        home._tied_params_are_equal = compare


def _take_over_process_group() -> None:
    """Give DeepSpeed the process group that exists.

    On a CPU it would first compile a shared-memory all-reduce, half a minute of C++ on a fresh machine and
    an error without a compiler and ninja. Only its tensor-parallel inference calls that; ZeRO-3 gathers
    through torch.distributed. So it is told that there is none.
    """
    import deepspeed

    backend: Any = import_module("deepspeed.comm.torch")  # as an attribute of its package it is torch itself
    build = backend.build_shm_op
    backend.build_shm_op = lambda: None
    try:
        deepspeed.init_distributed(verbose=False)
    finally:
        backend.build_shm_op = build
