"""What we take of Ray that is not its public interface, in one place: an upgrade of Ray fails here first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.callback import ControllerCallback

from elder.pipelines.cluster.node_address import speak_on

WAITING = ("InitializingState", "SchedulingState", "ReschedulingState", "RestartingState", "ResizingState")
"""States of Ray Train's controller in which workers are waited for."""


class NodeTorchBackend(_TorchBackend):  # type: ignore[misc]
    """Ray's process group, made on the address by which the nodes know each other."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Choose the interface on every worker, then make the group."""
        worker_group.execute(_speak_on_own_address)
        super().on_start(worker_group, backend_config)


class NodeTorchConfig(TorchConfig):
    """`TorchConfig` with our backend."""

    @property
    def backend_cls(self) -> Any:
        """What Ray Train starts on the workers."""
        return NodeTorchBackend


def _speak_on_own_address() -> None:
    speak_on(str(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]


class QuietTrainer(TorchTrainer):
    """A trainer that leaves Ctrl-C alone: Ray's own handler would end the process with exit code 0.

    It has no datasets, and starts no process for them: Ray gives every group of workers one, and loads `ray.data` in
    every worker, which takes seconds.
    """

    controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # not in the public class
        return [each for each in made if not isinstance(each, DatasetsCallback)]

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller


class GroupWatch(ControllerCallback):
    """Tells the mailbox, from the process of Ray Train's controller, whether the workers run or are waited for."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by the controller at every change of its state."""
        myself = ray.get_runtime_context().current_actor
        self._mailbox.group.remote(type(current_state).__name__ in WAITING, myself)


def free_by_node() -> dict[str, Mapping[str, float]]:
    """Free resources of each node, by its id."""
    state: Callable[[], dict[str, Mapping[str, float]]] = ray._private.state.available_resources_per_node
    return state()
