"""What we take of DeepSpeed that is not its public interface, in one place: an upgrade fails here first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

HOLDER = -1  # stands for a module that does not end, among those for which DeepSpeed keeps a weight whole


def partition(model: nn.Module, config: dict[str, Any], persistence_threshold: int) -> Any:
    """Install the hooks of ZeRO-3 that gather and release the parameters of a frozen model.

    Args:
        model: Parameters that are whole yet are partitioned first.
        config: Of DeepSpeed.
        persistence_threshold: Parameters of at most so many elements stay whole.

    Returns:
        What holds the hooks; they live as long as it does.
    """
    from deepspeed.runtime.zero import parameter_offload

    offload = parameter_offload.DeepSpeedZeRoOffload(
        model,
        timers=None,
        ds_config=config,
        overlap_comm=False,
        prefetch_bucket_size=0,
        max_reuse_distance=0,
        max_live_parameters=0,
        param_persistence_threshold=persistence_threshold,
    )
    parameter_offload.FWD_MODULE_STACK.pop()  # DeepSpeed would keep the model for ever
    return offload


def record_nothing(offload: Any, at_end_of_pass: Callable[[], None]) -> None:
    """Keep DeepSpeed from recording the order of modules, which it does to prefetch the next ones.

    Editors skip a frozen prefix, switch gradients on and off and run parts of the model: the record would be thrown
    away at most calls, and each new one costs a comparison between all ranks.
    """
    offload.param_coordinator.reset_step = at_end_of_pass


def drop_leftovers(offloads: Iterable[Any]) -> None:
    """Drop what the last backward left whole: layers whose input carried no gradient, where no hook fires."""
    for offload in offloads:
        offload.param_coordinator.release_backward_leftovers()


@contextmanager
def held_whole(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gather parameters once; no pass inside the block drops them. They are partitioned again behind it. Collective.

    Args:
        parameters: Of a model that is loaded in parts, each once.
    """
    known: list[Any] = list(parameters)
    known[0].all_gather(param_list=[parameter for parameter in known if is_partitioned(parameter)])
    for parameter in known:
        parameter.ds_active_sub_modules.add(HOLDER)
    try:
        yield
    finally:
        for parameter in known:
            parameter.ds_active_sub_modules.clear()  # a pass that failed leaves its modules there
        known[0].partition(param_list=known)


def is_held(parameter: Any) -> bool:
    """Whether a block of `held_whole` goes on."""
    return HOLDER in parameter.ds_active_sub_modules


def is_partitioned(parameter: Any) -> bool:
    """Whether this rank holds only its part of a parameter."""
    return bool(parameter.ds_status.name == "NOT_AVAILABLE")
