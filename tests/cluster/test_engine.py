"""DeepSpeed ZeRO-3 behind the Runtime protocol: two ranks against the whole model, for two architectures.

The adapters of these tests hang on a clone of the base by forward hooks, as editors hang theirs.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.models.load import load_base
from elder.runtime import LocalRuntime
from elder.state import weights_digest
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import ARCHITECTURES, write_model

pytestmark = pytest.mark.ranks
TOOLS = ("cc", "gcc", "c++", "g++", "clang", "clang++", "ninja")
IDS = torch.randint(3, 40, (2, 10), generator=torch.Generator().manual_seed(3))


def _adapted(model: Any) -> tuple[Any, list[torch.Tensor], Any]:
    """A clone with a low-rank term on the MLP outputs of blocks 1 and 2."""
    clone = clone_sharing_weights(model)
    parts = anatomy(clone)
    generator, adapters = torch.Generator().manual_seed(1), []
    for block in (1, 2):
        down = torch.randn(parts.inner, 4, generator=generator).mul_(0.1).requires_grad_()
        up = torch.randn(4, parts.width, generator=generator).mul_(0.1).requires_grad_()
        adapters += [down, up]
        parts.mlp_out[block].register_forward_hook(lambda m, x, y, a=down, b=up: y + x[0] @ a @ b)
    return clone, adapters, parts


def _gradients(model: Any, adapters: list[torch.Tensor]) -> list[torch.Tensor]:
    for adapter in adapters:
        adapter.grad = None
    model(input_ids=IDS, labels=IDS).loss.backward()
    return [adapter.grad.clone() for adapter in adapters if adapter.grad is not None]


def _distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    assert len(ours) == len(theirs) == 4
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def _held(model: nn.Module) -> int:
    """Weights that are whole on this rank now."""
    return sum(p.numel() for p in model.parameters())


def _compare(directory: Path, sources: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {name: _compare_one(source) for name, source in sources.items()}


def _compare_one(source: str) -> dict[str, Any]:
    from elder.pipelines.cluster.deepspeed_runtime import DeepSpeedRuntime

    runtime = DeepSpeedRuntime("cpu")
    base, whole = load_base(source, runtime=runtime), load_base(source)
    found: dict[str, Any] = {
        "weights": _held(whole.model),
        "shard": sum(p.ds_tensor.numel() for p in base.model.parameters()),
        "held_after_loading": _held(base.model),
        "tools": [shutil.which(name) for name in TOOLS],
        "digests": (weights_digest(base.model, runtime), weights_digest(whole.model, LocalRuntime())),
    }
    model, adapters, _ = _adapted(base.model)
    reference, expected, parts = _adapted(whole.model)
    runtime.prepare(model)
    truth = _gradients(reference, expected)
    found["gradient"] = max(_distance(_gradients(model, adapters), truth) for _ in range(3))
    found["size_of_gradient"] = max(float(g.abs().max()) for g in truth)
    with torch.no_grad():
        found["logits"] = float((model(input_ids=IDS).logits - reference(input_ids=IDS).logits).abs().max())
        found["held_after_forward"] = _held(base.model)
        # Ranks ask for answers of different length: generation must keep them in step.
        wanted = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 3 + 5 * runtime.rank}
        ours = runtime.generate(model, do_sample=False, **wanted)
        found["generation"] = torch.equal(ours, reference.generate(do_sample=False, **wanted))
    found["held_after_backward"] = _held(base.model)
    found["partial"] = _partial(model, adapters, reference, expected, parts)
    second, more, _ = _adapted(base.model)
    runtime.prepare(second)
    both = [_gradients(second, more), _gradients(model, adapters)]
    found["second_editor"] = max(_distance(each, truth) for each in both)
    with torch.no_grad():
        found["base_untouched"] = weights_digest(base.model, runtime) == found["digests"][1]
    found["kept"] = _kept(base.model, truth)
    found["sum"] = runtime.sum(torch.full((3,), float(runtime.rank + 1)).expand(2, 3).contiguous().t())
    found["objects"] = runtime.gather_objects({"rank": runtime.rank})
    return found


def _kept(base: Any, truth: list[torch.Tensor]) -> dict[str, Any]:
    """A small model is whole in a block of passes and no longer; a larger one is not."""
    from elder.pipelines.cluster.deepspeed_runtime import DeepSpeedRuntime

    weights = sum(p.ds_numel for p in base.parameters())
    with DeepSpeedRuntime("cpu", keep_below=weights - 1).kept(base):
        found: dict[str, Any] = {"weights": weights, "larger": _held(base)}
    runtime = DeepSpeedRuntime("cpu", keep_below=weights)
    model, adapters, _ = _adapted(base)
    runtime.prepare(model)
    with suppress(ZeroDivisionError), runtime.kept(model):
        found["begin"] = _held(model)
        found["gradient"] = max(_distance(_gradients(model, adapters), truth) for _ in range(2))
        found["passed"] = _held(model)
        with runtime.kept(model), runtime.gathered(model.parameters()):
            pass
        found["nested"] = _held(model)
        raise ZeroDivisionError
    found["end"] = _held(model)
    found["after"] = _distance(_gradients(model, adapters), truth)
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "do_sample": False}
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda m, x: seen.append(_held(m)))
    runtime.generate(model, max_new_tokens=2 + 2 * runtime.rank, **asked)
    handle.remove()
    return {**found, "answering": min(seen), "answered": _held(model)}


def _partial(
    model: Any, adapters: list[torch.Tensor], reference: Any, expected: list[torch.Tensor], parts: Any
) -> float:
    """Runs in changing order: all blocks, or without block 0 on given hidden states; gradients on and off."""
    hidden: list[torch.Tensor] = []
    with torch.no_grad():
        handle = parts.blocks[1].register_forward_pre_hook(lambda m, x: hidden.append(x[0]))
        reference(input_ids=IDS)
        handle.remove()
    worst = 0.0
    for turn in range(8):
        results = []
        for each, own in ((model, adapters), (reference, expected)):
            first = anatomy(each).blocks[0]
            original = first.forward
            if turn % 3:
                first.forward = lambda *args, **kwargs: hidden[0]
            results.append(_gradients(each, own))
            first.forward = original
            if turn % 2:
                with torch.no_grad():
                    each(input_ids=IDS[:, : 5 + turn])
        worst = max(worst, _distance(*results))
    return worst


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    root, compiled = tmp_path_factory.mktemp("engine"), tmp_path_factory.mktemp("compiled")
    sources = {name: str(write_model(root / name, name)) for name in ARCHITECTURES}
    with pytest.MonkeyPatch.context() as bare:  # a machine without a compiler, on which nothing was ever compiled
        bare.setenv("PATH", str(tmp_path_factory.mktemp("programs")))
        bare.setenv("TORCH_EXTENSIONS_DIR", str(compiled))
        bare.delenv("CC", raising=False)
        bare.delenv("CXX", raising=False)
        found = on_ranks(_compare, root, sources, fresh=True)
    assert os.listdir(compiled) == []
    return found


@pytest.fixture(params=[(rank, name) for rank in (0, 1) for name in ARCHITECTURES], ids=lambda p: f"{p[1]}-rank{p[0]}")
def found(request: pytest.FixtureRequest, measured: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    rank, name = request.param
    return measured[rank][name]


def test_each_rank_holds_half_of_the_weights(found: dict[str, Any]) -> None:
    assert 0.5 * found["weights"] <= found["shard"] <= 0.51 * found["weights"]
    assert found["held_after_loading"] == 0
    assert found["held_after_forward"] == 0
    assert found["held_after_backward"] <= 0.15 * found["weights"]


def test_weights_read_under_sharding_are_the_weights(found: dict[str, Any]) -> None:
    assert found["digests"][0] == found["digests"][1]
    assert found["base_untouched"]


def test_neither_compiler_nor_ninja_is_needed(found: dict[str, Any]) -> None:
    assert found["tools"] == [None] * len(TOOLS)
    assert found["gradient"] < 1e-6


def test_gradients_reach_adapters_through_frozen_shards(found: dict[str, Any]) -> None:
    assert found["size_of_gradient"] > 1e-3
    assert found["gradient"] < 1e-6
    assert found["logits"] < 1e-5


def test_parts_of_the_model_run_in_any_order(found: dict[str, Any]) -> None:
    assert found["partial"] < 1e-6


def test_two_editors_share_one_sharded_base(found: dict[str, Any]) -> None:
    assert found["second_editor"] < 1e-6


def test_ranks_with_answers_of_different_length_stay_in_step(found: dict[str, Any]) -> None:
    assert found["generation"]


def test_a_small_model_is_whole_in_a_block_of_passes(found: dict[str, Any]) -> None:
    kept = found["kept"]
    whole = kept["weights"]
    assert kept["larger"] == kept["end"] == kept["answered"] == 0
    assert kept["begin"] == kept["passed"] == kept["nested"] == kept["answering"] == whole
    assert max(kept["gradient"], kept["after"]) < 1e-6


def test_sums_and_objects_travel(found: dict[str, Any]) -> None:
    assert torch.equal(found["sum"], torch.full((3, 2), 3.0))
    assert found["objects"] == [{"rank": 0}, {"rank": 1}]
