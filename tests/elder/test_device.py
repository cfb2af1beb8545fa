"""The choice of device, number format and backend; the accelerator is pretended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from elder.device import backend_for, describe, device_memory, pick_device, pick_dtype
from elder.errors import ConfigError


@pytest.fixture(params=[False, True], ids=["without", "with"])
def accelerator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


def test_auto_takes_the_accelerator_of_this_rank_where_there_is_one(accelerator: bool) -> None:
    device = pick_device("auto", local_rank=2)
    assert (device.type, device.index) == (("cuda", 2) if accelerator else ("cpu", None))
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_an_accelerator_that_is_asked_for_must_be_there(accelerator: bool, name: str) -> None:
    if accelerator:
        assert pick_device(name) == torch.device(name)
    else:
        with pytest.raises(ConfigError, match=f"'{name}' asks for a GPU.*use 'auto' or 'cpu'"):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "tpu", "", "cpu:x", "CUDA"])
def test_unknown_devices_are_refused(accelerator: bool, name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown device '{name}'"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:x", "cuda:", "cuda:-1"])
def test_malformed_device_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=f"'{name}'"):
        pick_device(name)


def test_memory_is_that_of_the_accelerator_if_there_is_one(accelerator: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=2**34 + index))
    assert device_memory() == (2**34 if accelerator else None)


def test_dtypes_by_name() -> None:
    assert pick_dtype("float32") is torch.float32
    assert pick_dtype("bfloat16") is torch.bfloat16
    assert pick_dtype("float16") is torch.float16
    with pytest.raises(ConfigError, match=r"unknown 'fp8' \(expected one of float32, bfloat16, float16\)"):
        pick_dtype("fp8")


def test_backends_and_descriptions() -> None:
    assert backend_for(1) == backend_for(0.5) == "nccl"
    assert backend_for(0) == "gloo"
    assert describe(torch.device("cpu")) == f"CPU, {torch.get_num_threads()} threads"
