"""UltraEdit, MALMEN and one step of meta-training on two ranks against one process: data parallel and ZeRO-3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import elder
from elder.device import DTYPES
from elder.edit import Probe
from elder.hyper.trainer import make_trainer
from elder.registry import make_training
from elder.runtime import LocalRuntime, Runtime
from elder.state import state_digest
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import make_edits, write_model
from tests.double import in_double
from tests.methods import small

pytestmark = pytest.mark.ranks
METHODS = ("ultraedit", "malmen")
Found = dict[str, Any]
# ||difference|| / ||value||, in float64 (see `tests/double.py`). Found: 1e-15 at most; a rank's part that is not summed
# shows at 1e-2 and above.
TOLERANCE = 1e-10


def _all(runtime: Runtime, source: str) -> Found:
    # DeepSpeed knows two kinds of half and `torch.float`, and users cannot ask for float64.
    partitioning = ["deepspeed.runtime.zero.partition_parameters"] if runtime.sharded else []
    with in_double(*partitioning), patch.dict(DTYPES, {"float64": torch.float64}):
        return _all_in_double(runtime, source)


def _all_in_double(runtime: Runtime, source: str) -> Found:
    base = elder.load_base(source, runtime=runtime, dtype="float64")
    digest = base.digest
    edits = [replace(e, locality=(*e.locality, Probe("Water has", "a"))) for e in make_edits(7)]
    found: Found = {}
    for method in METHODS:
        editor = elder.make_editor(method, base, **small(method, batch_size=4, micro_batch=1))
        receipt = editor.edit(edits)
        found[method] = {n: t for n, t in editor.state_dict().items() if t.is_floating_point()}
        found[f"{method}.losses"] = [list(curve) for curve in receipt.losses]
        found[f"{method}.digest"] = state_digest(editor.state_dict())
    options = {"rank": 8, "lr": 1e-2, "accumulate": 2, "layers": [1, 3], "micro_batch": 2, "chunk": 4}
    trainer = make_trainer("malmen", base, make_training("malmen", options))
    figures = trainer.step(edits)
    found["gradient"] = {n: p.grad.clone() for n, p in trainer.network.named_parameters() if p.grad is not None}
    found["figures"] = {name: figures[name] for name in ("loss", "edit_loss", "locality_loss", "change")}
    trainer.step(edits[:3])
    found["validation"] = trainer.validate(edits, 3)
    found["trainer.digest"] = state_digest(trainer.state_dict())
    found["untouched"] = digest == elder.state.weights_digest(base.model, runtime)  # type: ignore[attr-defined]
    return found


def _on_rank(directory: Path, source: str, sharding: str) -> Found:
    from elder.pipelines.cluster.deepspeed_runtime import DataParallelRuntime, DeepSpeedRuntime

    return _all(DeepSpeedRuntime("cpu", torch.float64) if sharding == "zero3" else DataParallelRuntime("cpu"), source)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "llama"))


@pytest.mark.parametrize("sharding", ["zero3", "none"])
def test_two_ranks_do_what_one_process_does(source: str, sharding: str, tmp_path: Path) -> None:
    alone, ranks = _all(LocalRuntime(), source), on_ranks(_on_rank, tmp_path, source, sharding)
    for found in ranks:
        assert found["untouched"]
        for part in (*METHODS, "gradient"):
            assert set(found[part]) == set(alone[part])
            for name, wanted in alone[part].items():
                apart = float((found[part][name] - wanted).norm())
                assert apart <= TOLERANCE * float(wanted.norm()), f"{part} {name} is {apart} apart"
        for part in ("figures", "validation"):
            assert found[part] == pytest.approx(alone[part], rel=TOLERANCE, abs=1e-7)
        for method in METHODS:
            assert found[f"{method}.digest"] == ranks[0][f"{method}.digest"]
            assert all(after < before for before, after in found[f"{method}.losses"])
        assert found["trainer.digest"] == ranks[0]["trainer.digest"]
