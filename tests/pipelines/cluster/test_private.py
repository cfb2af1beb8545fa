"""What we take of Ray and DeepSpeed without being promised it: here an upgrade fails first, and says where."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.controller.controller import TrainController

from elder.pipelines.cluster import deepspeed_private, ray_private


def test_ray_calls_what_we_override() -> None:
    assert list(inspect.signature(_TorchBackend.on_start).parameters) == ["self", "worker_group", "backend_config"]
    assert "after_controller_state_update" in inspect.getsource(TrainController)
    assert "_register_sigint_handler" in inspect.getsource(ray_private.QuietTrainer.__mro__[1].__mro__[1])
    assert ray_private.NodeTorchConfig(backend="gloo").backend_cls is ray_private.NodeTorchBackend


def test_a_group_of_workers_gets_no_process_for_datasets() -> None:
    ours, rays = (kind(lambda: None) for kind in (ray_private.QuietTrainer, ray_private.TorchTrainer))
    names, all_names = (
        {type(each).__name__ for each in trainer._create_default_callbacks()} for trainer in (ours, rays)
    )
    assert all_names - names == {"DatasetsCallback"}


def test_the_states_that_wait_are_those_of_this_ray() -> None:
    import ray.train.v2._internal.execution.controller.state as states

    names = {name for name in dir(states) if name.endswith("State")}
    assert set(ray_private.WAITING) <= names
    assert not {"RunningState", "ShuttingDownState", "FinishedState"} & set(ray_private.WAITING)


def test_free_resources_are_asked_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import state

    monkeypatch.setattr(state, "available_resources_per_node", lambda: {"n": {"CPU": 2.0}})
    assert ray_private.free_by_node() == {"n": {"CPU": 2.0}}
    monkeypatch.undo()
    assert not inspect.signature(state.available_resources_per_node).parameters


def test_deepspeed_has_what_we_take_of_it() -> None:
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    assert isinstance(parameter_offload.FWD_MODULE_STACK, list)
    assert callable(PartitionedParameterCoordinator.reset_step)
    dropped = []
    coordinator = SimpleNamespace(release_backward_leftovers=lambda: dropped.append(1))
    deepspeed_private.drop_leftovers([SimpleNamespace(param_coordinator=coordinator)])
    assert dropped == [1]
    assert hasattr(PartitionedParameterCoordinator, "release_backward_leftovers")
