"""Planning: stages cover the stream once, memory follows its formulas, nothing is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from elder.errors import ConfigError, ModelError
from elder.pipelines.config.run import load_config
from elder.pipelines.planning.memory import adapter_parameters, estimate, recommend
from elder.pipelines.planning.plan import plan, split
from elder.pipelines.planning.shapes import model_shape
from elder.world.recipe import find_recipe
from tests.pipelines.config.test_run import config_of


def tiny(kind: str):  # type: ignore[no-untyped-def]
    """A small transformers config of a Llama or a GPT-2."""
    if kind == "gpt2":
        return AutoConfig.for_model("gpt2", n_embd=32, n_layer=3, n_head=2, vocab_size=50, n_positions=64)
    return AutoConfig.for_model(
        "llama",
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        max_position_embeddings=64,
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_shape_counts_what_a_real_model_has(kind: str) -> None:
    config = tiny(kind)
    real = AutoModelForCausalLM.from_config(config)
    shape = model_shape("x", model_config=config)
    assert shape.parameters == sum(p.numel() for p in real.parameters())
    assert shape.gated == (kind == "llama")
    assert shape.key_width == (16 if kind == "llama" else 32)
    block = real.model.layers[0] if kind == "llama" else real.transformer.h[0]
    assert shape.block_parameters == sum(p.numel() for p in block.parameters())


def test_documented_models_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert model_shape("meta-llama/Llama-2-7b-hf").parameters == 6_738_415_616
    assert model_shape("openai-community/gpt2-xl").parameters == 1_557_611_200


def test_adapter_count_of_the_papers_settings() -> None:
    for name, expected in (("llama2_7b_zsre", 3_164_184), ("gpt2xl_zsre", 1_312_020)):
        config = load_config(f"paper/elder_{name}")
        shape = model_shape(config.model.source)
        assert adapter_parameters(config, shape) == expected  # computed by hand in the method's specification


def test_world_shape_comes_from_the_recipe_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert 10**6 < model_shape("world:small").parameters < 2 * 10**6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelError, match="world:small"):
        model_shape("world:smal")


def test_stages_cover_the_stream_once() -> None:
    stages = split(23, 10, 4)
    assert [(s.first, s.end, s.batches) for s in stages] == [(0, 10, 3), (10, 20, 3), (20, 23, 1)]
    assert split(0, 10, 4) == ()
    assert split(None, 10, 4) == ()


def test_memory_follows_the_formulas() -> None:
    config = config_of("cluster: {workers: 4}\nstream: {batch_size: 8}\nevaluation: {batch_size: 2, max_new_tokens: 6}")
    shape = model_shape("x", model_config=tiny("llama"))
    none, zero2, zero3 = estimate(config, shape)
    assert none.base == zero2.base == shape.parameters * 4
    assert zero3.base == -(-shape.parameters * 4 // 4)
    assert none.gathered == 0
    assert zero3.gathered == shape.parameters * 4  # a small model is whole while the workers have something to do
    large = estimate(config, replace(shape, parameters=2**28 + 1))[2]
    assert large.gathered == max(2 * shape.block_parameters, shape.embedding_parameters) * 4
    assert none.adapters == zero3.adapters == 16 * adapter_parameters(config, shape)
    depth = 4 - 2  # the default edits the upper blocks 2 and 3
    assert none.training == 4 * 64 * (depth * (8 * 32 + 3 * 80) * 4 + 2 * 50 * 4)
    assert none.evaluation == 2 * ((64 + 6) * 4 * 2 * 16 * 4 + 50 * 4)
    assert none.total == none.base + none.adapters + max(none.training, none.evaluation)
    half = estimate(config_of("model: {dtype: bfloat16}"), shape)[0]
    assert half.base * 2 == none.base


def test_one_worker_has_nothing_to_shard() -> None:
    shape = model_shape("x", model_config=tiny("llama"))
    estimates = estimate(config_of("cluster: {workers: 1}"), shape)
    assert len({item.total for item in estimates}) == 1
    assert recommend(estimates, 1, 10)[0] == "none"


def test_recommendation_shards_only_when_it_must() -> None:
    shape = model_shape("meta-llama/Llama-2-7b-hf")
    estimates = estimate(config_of("cluster: {workers: 4}"), shape)
    assert recommend(estimates, 4, 80 * 2**30)[0] == "none"
    assert recommend(estimates, 4, 24 * 2**30)[0] == "zero3"
    assert "add workers" in recommend(estimates, 4, 2**30)[1]
    assert "GiB or more" in recommend(estimates, 4, None)[1]


def test_plan_names_every_key_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = plan(config_of("run_id: r1\ndata: {edits: 120}"))
    assert torch.equal(before, torch.get_rng_state())
    assert [stage.stage for stage in found.stages] == [0, 1, 2]
    assert "runs/r1/stages/000002/COMMIT.json" in found.keys
    assert "runs/r1/stages/000000/{attempt}/adapter.safetensors" in found.keys
    assert len(set(found.keys)) == len(found.keys)
    assert list(tmp_path.iterdir()) == []
    record = found.to_dict()
    assert record["config_digest"] == found.config.digest()
    assert len(record["memory"]) == 3


def test_plan_refuses_blocks_that_are_not_there() -> None:
    last = find_recipe("small").shape.layers - 1
    with pytest.raises(ConfigError, match=f"blocks 0 to {last}, there is no 7"):
        plan(config_of("editor: {method: elder, layers: [4, 7]}"))


def test_plan_says_when_auto_would_choose_otherwise() -> None:
    found = plan(config_of("cluster: {workers: 2, sharding: zero3}"), memory_per_worker=2**34)
    assert found.sharding == "zero3"
    assert "auto" in found.reason
    found = plan(config_of("cluster: {workers: 2, sharding: auto}"), memory_per_worker=2**34)
    assert found.sharding == "none"


def test_unknown_directory_is_named() -> None:
    with pytest.raises(ModelError, match="no directory"):
        plan(config_of("", "model.source=./nowhere"))


def test_statistics_and_changes_of_weight_editors_are_counted() -> None:
    """LLaMA2-7B, five blocks, by hand: m = 11008, d = 4096."""
    text = "editor: {method: METHOD, layers: [4, 5, 6, 7, 8]}\ndata: {edits: 1000}"
    square, shape = 11008**2 * 8, model_shape("meta-llama/Llama-2-7b-hf")
    found = {m: estimate(config_of(text.replace("METHOD", m)), shape)[0] for m in ("memit", "emmet", "alphaedit")}
    assert found["memit"].statistics == 5 * 3 * square  # C, its factor, Q of the cache
    assert found["emmet"].statistics == 5 * 2 * square
    assert found["alphaedit"].statistics == 5 * 4 * square
    assert found["emmet"].adapters == 5 * 4 * (4096 * 11008 + 1000 * (4096 + 11008))
    assert found["memit"].adapters == 5 * 4 * (4096 * 11008 + 1000 * (4096 + 2 * 11008))
    one = found["memit"]
    assert one.total == one.base + one.adapters + one.statistics + max(one.training, one.evaluation)
    rows, depth = 10 * 7, 32 - 9
    assert one.training == rows * 64 * (depth * (8 * 4096 + 3 * 11008) * 4 + 2 * 32000 * 4)
    half = estimate(config_of(text.replace("METHOD", "memit"), "cluster.workers=4"), shape)[0]
    assert half.training == one.training * 3 // 10  # of ten edits, no worker has more than three
    # ROME finds one value at a time, in 22 texts
    single = estimate(config_of("editor: {method: rome, layers: [4]}\ndata: {edits: 1000}"), shape)[0]
    assert single.training == 22 * 64 * ((32 - 5) * (8 * 4096 + 3 * 11008) * 4 + 2 * 32000 * 4)
    plain = estimate(config_of("editor: {method: rome, statistics: false}"), model_shape("world:small"))[0]
    assert plain.statistics == 0


def test_a_plan_of_a_weight_editor_needs_a_text_and_blocks_that_are_there(tmp_path: Path) -> None:
    found = plan(config_of("editor: {method: memit}"))
    assert any("statistics" in line for line in found.to_dict()["memory_formulas"])
    assert "statistics/" in found.to_dict()["keys"][-1]
    with pytest.raises(ConfigError, match="blocks 0 to 4, there is no 9"):
        plan(config_of("editor: {method: memit, layers: [9]}"))
    with pytest.raises(ConfigError, match=r"editor\.text: .* brings none"):
        plan(config_of("editor: {method: memit}", "model.source=meta-llama/Llama-2-7b-hf"))
    with pytest.raises(ConfigError, match=r"editor\.text: .*no such file"):
        plan(config_of("editor: {method: memit}", f"editor.text={tmp_path}/none.txt"))
