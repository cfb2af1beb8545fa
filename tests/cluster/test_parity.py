"""The real editors on two ranks against one process: same state, same answers, same figures.

Two tiny architectures, sharded with ZeRO-3 from several safetensors files, and data parallel. In float64, where what
parts them is a fault and not rounding (see `tests/double.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import elder
from elder.device import DTYPES
from elder.metrics.evaluator import Evaluator
from elder.runtime import LocalRuntime, Runtime
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import ARCHITECTURES, make_edits, write_model
from tests.double import in_double, trained_apart, worst
from tests.methods import small

pytestmark = pytest.mark.ranks
METHODS = ("elder", "elder-plus")
SMALL = {"steps": 6, "extra_steps": 4, "lr": 1e-3, "batch_size": 3}
# Three batches; a gradient is a sum over at most 70 rows of 16 tokens, on activations that are sums over 128 numbers.
APART = trained_apart(steps=30, lr=1e-3, terms=70 * 16 + 128)
CASES = [(method, architecture) for method in METHODS for architecture in ARCHITECTURES]
Found = dict[tuple[str, str], dict[str, Any]]


def _edit_all(runtime: Runtime, sources: dict[str, str]) -> Found:
    return {(method, name): _edit(runtime, sources[name], method) for method, name in CASES}


def _edit(runtime: Runtime, source: str, method: str) -> dict[str, Any]:
    # DeepSpeed knows two kinds of half and `torch.float`, and users cannot ask for float64.
    partitioning = ["deepspeed.runtime.zero.partition_parameters"] if runtime.sharded else []
    with in_double(*partitioning), patch.dict(DTYPES, {"float64": torch.float64}):
        return _edit_in_double(runtime, source, method)


def _edit_in_double(runtime: Runtime, source: str, method: str) -> dict[str, Any]:
    """Two calls of `edit`, a measurement, and what must not have changed."""
    base = elder.load_base(source, runtime=runtime, dtype="float64")
    assert base.model.dtype == torch.float64
    editor = elder.make_editor(method, base, **small(method, **SMALL))
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
    from elder.pipelines.cluster.deepspeed_runtime import DataParallelRuntime, DeepSpeedRuntime

    sharded = sharding == "zero3"
    return _edit_all(DeepSpeedRuntime("cpu", torch.float64) if sharded else DataParallelRuntime("cpu"), sources)


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


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_state_and_answers_are_those_of_one_process(case: tuple[str, str], ranks: list[Found], alone: Found) -> None:
    truth = alone[case]
    for rank in ranks:
        found = rank[case]
        assert found["digest"] == truth["digest"]
        assert found["base_unchanged"]
        assert not worst(found["state"], truth["state"], APART)
        assert found["texts"] == truth["texts"]
        assert found["metrics"] == pytest.approx(truth["metrics"], rel=APART, abs=APART)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_replicas_are_equal_bit_for_bit(case: tuple[str, str], ranks: list[Found]) -> None:
    first, second = (rank[case]["state"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_training_moved_something(case: tuple[str, str], alone: Found) -> None:
    """Parity of two editors that did nothing would say nothing. The second map of every pair is born zero."""
    found = [tensor for name, tensor in alone[case]["state"].items() if name.endswith(".b")]
    assert found
    assert all(float(tensor.abs().max()) > 100 * APART for tensor in found)
