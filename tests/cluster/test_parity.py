"""The real editors on two ranks against one process: same state, same answers, same figures.

Two tiny architectures, sharded with ZeRO-3 from several safetensors files, and data parallel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import elder
from elder.metrics.evaluator import Evaluator
from elder.runtime import LocalRuntime, Runtime
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import ARCHITECTURES, make_edits, write_model

pytestmark = pytest.mark.cluster
# Adam turns rounding noise in near-zero gradients into steps of size lr: the differences are proportional to it.
METHODS = {"elder": {"steps": 6, "lr": 1e-3}, "elder-plus": {"steps": 6, "extra_steps": 4, "lr": 5e-4}}
CASES = [(method, architecture) for method in METHODS for architecture in ARCHITECTURES]
Found = dict[tuple[str, str], dict[str, Any]]


def _edit_all(runtime: Runtime, sources: dict[str, str]) -> Found:
    return {(method, name): _edit(runtime, sources[name], method) for method, name in CASES}


def _edit(runtime: Runtime, source: str, method: str) -> dict[str, Any]:
    """Two calls of `edit`, a measurement, and what must not have changed."""
    base = elder.load_base(source, runtime=runtime)
    editor = elder.make_editor(method, base, batch_size=3, **METHODS[method])
    edits = make_edits(8)
    before = base.digest
    losses = [*editor.edit(edits[:5]).losses, *editor.edit(edits[5:]).losses]
    report = Evaluator(editor, max_new_tokens=4, batch_size=5).measure(edits)
    return {
        "losses": [list(curve) for curve in losses],
        "state": editor.state_dict(),
        "metrics": report.metrics,
        "texts": [row["reliability.generate.text"] for row in report.rows],
        "base_unchanged": before == editor.base_digest(),
        "digest": before,
    }


def _on_rank(directory: Path, sources: dict[str, str], sharding: str) -> Found:
    from pipelines.engine import DataParallelRuntime, DeepSpeedRuntime

    return _edit_all(DeepSpeedRuntime("cpu") if sharding == "zero3" else DataParallelRuntime("cpu"), sources)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    found = {name: str(write_model(root / name, name)) for name in ARCHITECTURES}
    for place in found.values():
        assert len(list(Path(place).glob("model-*.safetensors"))) > 3
    return found


@pytest.fixture(scope="module")
def alone(sources: dict[str, str]) -> Found:
    return _edit_all(LocalRuntime(), sources)


@pytest.fixture(scope="module", params=["zero3", "none"])
def ranks(
    request: pytest.FixtureRequest, sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[Found]:
    return on_ranks(_on_rank, tmp_path_factory.mktemp(request.param), sources, request.param)


def _floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_state_and_answers_are_those_of_one_process(case: tuple[str, str], ranks: list[Found], alone: Found) -> None:
    truth = alone[case]
    for rank in ranks:
        found = rank[case]
        assert found["digest"] == truth["digest"]
        assert found["base_unchanged"]
        assert set(found["state"]) == set(truth["state"])
        for name, tensor in _floats(truth["state"]).items():
            worst = float((found["state"][name] - tensor).abs().max()) if tensor.numel() else 0.0
            assert worst < 1e-5, f"{name} differs by {worst}"
        assert found["texts"] == truth["texts"]
        assert found["metrics"] == pytest.approx(truth["metrics"], abs=1e-4)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_replicas_are_equal_bit_for_bit(case: tuple[str, str], ranks: list[Found]) -> None:
    first, second = (rank[case]["state"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_training_moved_something(case: tuple[str, str], alone: Found) -> None:
    """Parity of two editors that did nothing would say nothing."""
    for curve in alone[case]["losses"]:
        assert curve[-1] < curve[0]
