"""Weight editors on two ranks against one process: statistics, contexts, values and updates. Invariants 33 and 34.

Two tiny architectures, sharded with ZeRO-3 and data parallel; an odd number of edits, which stop at different steps.
In float64, where what parts them is a fault and not rounding (see `tests/double.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM

import elder
from elder.device import DTYPES
from elder.export import export_merged
from elder.runtime import LocalRuntime, Runtime
from elder.state import unpack_json
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import ARCHITECTURES, SHADES, THINGS, make_edits, write_model
from tests.double import UNIT, in_double
from tests.methods import having, small

pytestmark = [pytest.mark.ranks, pytest.mark.nodes]
SMALL = {
    "steps": 8,
    "lr": 0.02,
    "clamp": 20.0,
    "decay": 0.0,
    "stop": 3.9,
    "jitter": 0.1,
    "context_tokens": 6,
    "contexts": 2,
    "batch_size": 3,
}
# What parts ranks is the order in which they add up C: 672 tokens of width 128. A solve with C makes that as much
# larger as C is badly conditioned: 3e5 without jitter. In float64 the bound is 3e-8 and 2e-14 is found; in float32
# 1e-5 did not hold on every processor.
CONDITION, TERMS = 3e5, 672 + 128
APART = CONDITION * TERMS * UNIT
METHODS = having("clamp")  # those that find values
CASES = [*((method, "llama") for method in METHODS), ("memit", "gpt2")]
COUNT = 5  # batches of 3 and 2: one rank has more values to find than the other
Found = dict[tuple[str, str], dict[str, Any]]


class Counted:
    """A runtime that counts its collectives, by name."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.calls = inner, dict.fromkeys(("sum", "gather_objects", "barrier"), 0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("sum", "gather_objects", "barrier"):
            return found

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return found(*args, **kwargs)

        return counting


def _edit_all(runtime: Runtime, sources: dict[str, str], text: str, root: Path) -> Found:
    # DeepSpeed knows two kinds of half and `torch.float`, and users cannot ask for float64.
    partitioning = ["deepspeed.runtime.zero.partition_parameters"] if runtime.sharded else []
    with in_double(*partitioning), patch.dict(DTYPES, {"float64": torch.float64}):
        return {(method, name): _edit(runtime, sources[name], method, text, root / name) for method, name in CASES}


def _edit(runtime: Runtime, source: str, method: str, text: str, merged: Path) -> dict[str, Any]:
    counted: Any = Counted(runtime)
    base = elder.load_base(source, runtime=counted, dtype="float64")
    before = base.digest
    editor: Any = elder.make_editor(method, base, **small(method, **SMALL, text=text))
    receipt = editor.edit(make_edits(COUNT))
    stepped = {layer: delta.dense.clone() for layer, delta in editor.deltas.of.items()}
    state = editor.state_dict()
    if method == "memit":
        export_merged(editor, merged)
    return {
        "merged": merged,
        "calls": counted.calls,
        "statistics": {layer: moment.mean() for layer, moment in editor.statistics.items()},
        "cursor": unpack_json(state.pop("cursor")),
        "state": state,
        "steps": [outcome.details["steps"] for outcome in receipt.outcomes],
        "norms": [outcome.details["value_norm"] for outcome in receipt.outcomes],
        "changes": stepped,
        "base_unchanged": before == editor.base_digest(),
        "logits": _logits(base, editor),
    }


def _logits(base: Any, editor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the edited model says, and what it says when it is switched off."""
    said = _logits_of(editor.model, base.tokenizer)
    with editor.disabled():
        return said, _logits_of(editor.model, base.tokenizer)


def _logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokenizer("The colour of t1 is", return_tensors="pt")["input_ids"]).logits


def _on_rank(directory: Path, sources: dict[str, str], text: str, sharding: str) -> Found:
    from elder.pipelines.cluster.deepspeed_runtime import DataParallelRuntime, DeepSpeedRuntime

    runtime = DeepSpeedRuntime("cpu", torch.float64) if sharding == "zero3" else DataParallelRuntime("cpu")
    return _edit_all(runtime, sources, text, directory)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(write_model(root / name, name)) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"The colour of t{i} is s{j} ." for i in range(THINGS) for j in range(0, SHADES, 4)))
    return str(path)


@pytest.fixture(scope="module")
def alone(sources: dict[str, str], text: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return _edit_all(LocalRuntime(), sources, text, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=["zero3", "none"])
def ranks(
    request: pytest.FixtureRequest, sources: dict[str, str], text: str, tmp_path_factory: pytest.TempPathFactory
) -> list[Found]:
    return on_ranks(_on_rank, tmp_path_factory.mktemp(request.param), sources, text, request.param)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_statistics_values_and_updates_are_those_of_one_process(
    case: tuple[str, str], ranks: list[Found], alone: Found
) -> None:
    truth = alone[case]
    for rank in ranks:
        found = rank[case]
        assert found["cursor"] == truth["cursor"]  # contexts, sizes and the ids of the statistics among them
        assert found["steps"] == truth["steps"]
        assert found["norms"] == pytest.approx(truth["norms"], rel=APART)
        for name in ("statistics", "changes", "state"):
            assert set(found[name]) == set(truth[name])
            for key, tensor in truth[name].items():
                size = max(1.0, float(tensor.abs().max()))  # some factors are far larger than the changes they make
                worst = float((found[name][key] - tensor).abs().max()) / size
                assert worst < APART, f"{name} {key} differs by {worst}"
        for said, wanted in zip(found["logits"], truth["logits"], strict=True):
            assert float((said - wanted).abs().max()) < APART


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_ranks_hold_the_same_bits_after_equally_many_collectives(case: tuple[str, str], ranks: list[Found]) -> None:
    first, second = (rank[case] for rank in ranks)
    assert first["calls"] == second["calls"]
    assert first["calls"]["gather_objects"] > 0
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])
    for one in (first, second):
        assert one["base_unchanged"]
        assert not torch.equal(*one["logits"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ranks_export_the_model_that_one_process_exports(
    name: str, ranks: list[Found], alone: Found, sources: dict[str, str]
) -> None:
    """From shards as well: every matrix is whole, those not edited to the bit; GPT-2's embeddings are tied."""
    truth = alone["memit", name]
    (place,) = {rank["memit", name]["merged"] for rank in ranks}
    model, wanted, plain = (AutoModelForCausalLM.from_pretrained(p) for p in (place, truth["merged"], sources[name]))
    written = 0
    for key, tensor in plain.state_dict().items():
        ours, theirs = model.state_dict()[key], wanted.state_dict()[key]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        written += not torch.equal(theirs, tensor)
        assert torch.equal(ours, tensor) == torch.equal(theirs, tensor)
    assert written == len(small("memit")["layers"])
    said = _logits_of(model, elder.load_base(sources[name]).tokenizer)
    assert float((said - truth["logits"][0]).abs().max()) < 1e-4


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_there_was_something_to_compare(case: tuple[str, str], alone: Found) -> None:
    """Edits stopped at different steps, and every block was changed."""
    truth = alone[case]
    assert len(set(truth["steps"])) > 1
    assert all(float(change.norm()) > 1e-3 for change in truth["changes"].values())
