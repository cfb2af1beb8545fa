"""Finding parts by structure, sharing weights, loading directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from elder.base import Base
from elder.editors.make import make_editor
from elder.errors import ConfigError, ModelError
from elder.mixture.samples import Row, edit_rows
from elder.models.anatomy import anatomy, clone_sharing_weights, dimensions
from elder.models.load import load_base, load_config, wrap_base
from elder.state import state_digest
from tests.elder.tiny import (
    DEPTH,
    EDITS,
    METHODS,
    OPTIONS,
    OTHERS,
    WIDTH,
    logits_of,
    make_model,
    make_tokenizer,
    padded,
)

COMMON = {"vocab_size": 259, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
MODERN = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
PLAIN = {k: v for k, v in MODERN.items() if k != "num_key_value_heads"}
ARCHITECTURES: dict[str, tuple[dict[str, Any], int, bool, str, str]] = {
    # options, inner width, gated, last name of the map in ("" = fused) and of the map out
    "llama": ({**MODERN, "intermediate_size": 48}, 48, True, "up_proj", "down_proj"),
    "mistral": ({**MODERN, "intermediate_size": 48}, 48, True, "up_proj", "down_proj"),
    "qwen2": ({**MODERN, "intermediate_size": 48}, 48, True, "up_proj", "down_proj"),
    "qwen3": ({**MODERN, "intermediate_size": 48, "head_dim": 8}, 48, True, "up_proj", "down_proj"),
    "gemma2": ({**MODERN, "intermediate_size": 48, "head_dim": 8}, 48, True, "up_proj", "down_proj"),
    "phi3": ({**MODERN, "intermediate_size": 48}, 48, True, "", "down_proj"),
    "phi": ({**PLAIN, "intermediate_size": 64}, 64, False, "fc1", "fc2"),
    "gpt2": ({"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}, 128, False, "c_fc", "c_proj"),
    "gpt2-as-wide-as-qkv": ({"n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 96}, 96, False, "c_fc", "c_proj"),
    "gpt_neox": ({**PLAIN, "intermediate_size": 128}, 128, False, "dense_h_to_4h", "dense_4h_to_h"),
    "opt": ({**PLAIN, "ffn_dim": 128, "word_embed_proj_dim": 32}, 128, False, "fc1", "fc2"),
    "opt-narrow": ({**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32}, 48, False, "fc1", "fc2"),
    "bloom": ({"hidden_size": 32, "n_layer": 4, "n_head": 4}, 128, False, "dense_h_to_4h", "dense_4h_to_h"),
    "gptj": ({"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}, 128, False, "fc_in", "fc_out"),
}


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    options = {**COMMON, "initializer_range": 0.25, **ARCHITECTURES[name][0]}
    config = CONFIG_MAPPING[name.split("-")[0]](**options)
    for drop in ("attention_dropout", "hidden_dropout", "dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, drop):
            setattr(config, drop, 0.0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parts_are_found_by_structure(name: str) -> None:
    _, inner, gated, name_in, name_out = ARCHITECTURES[name]
    model = build(name)
    parts, names = anatomy(model), {module: name for name, module in model.named_modules()}
    assert (len(parts.blocks), parts.width, parts.inner, parts.gated) == (4, 32, inner, gated)
    for block in range(4):
        out = parts.target(block, "mlp_out")
        assert dimensions(out) == (inner, 32)
        assert names[out].endswith(name_out)
        assert f".{block}." in names[out]
        assert parts.target(block, "auto") is (out if gated else parts.target(block, "mlp_in"))
        if name_in:
            assert dimensions(parts.target(block, "mlp_in")) == (32, inner)
            assert names[parts.target(block, "mlp_in")].endswith(name_in)
        else:
            with pytest.raises(ModelError, match="no separate input map; use mlp_out"):
                parts.target(block, "mlp_in")


def mean_answer_loss(base: Base, rows: list[Row]) -> float:
    """The base model's loss of every answer token, row by row."""
    losses = []
    for row in rows:
        logits = base.model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(row.answer), reduction="none"))
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in ("mistral", "qwen2", "gemma2", "gpt_neox", "gptj", "phi3", "bloom")
        for method in METHODS
    ],
)
def test_other_architectures_are_edited_and_are_the_base_elsewhere(name: str, method: str) -> None:
    base = wrap_base(build(name), make_tokenizer(), name)
    editor = make_editor(method, base, **{**OPTIONS[method], "guide_weight": 0.0})
    prompts = [EDITS[0].prompt, OTHERS[0], EDITS[1].prompt, OTHERS[3]]
    inputs = padded(base, prompts)
    before = logits_of(base.model, inputs)
    assert torch.equal(logits_of(editor.model, inputs), before)
    receipt = editor.edit(EDITS[:2])
    rows = edit_rows(base.tokenizer, EDITS[:2], "eos") if method == "elder" else editor.ledger.rows
    assert receipt.losses[0][0] == pytest.approx(mean_answer_loss(base, rows), rel=1e-4)  # fresh maps change nothing
    assert receipt.losses[0][-1] < receipt.losses[0][0]
    assert torch.equal(logits_of(base.model, inputs), before)
    inside = editor.in_scope(inputs["input_ids"], inputs["attention_mask"])
    after, real = logits_of(editor.model, inputs), inputs["attention_mask"].bool()
    assert inside[0]
    assert inside[2]
    for row in range(4):
        assert torch.equal(after[row][real[row]], before[row][real[row]]) != bool(inside[row])
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(*(editor.model.generate(**inputs, **options, use_cache=cache) for cache in (True, False)))


def test_models_whose_mlp_does_not_see_rows_are_refused_in_words(method: str) -> None:
    """OPT flattens rows and tokens into one dimension before its MLP."""
    editor = make_editor(method, wrap_base(build("opt"), make_tokenizer(), "opt"), **OPTIONS[method])
    before = state_digest(editor.state_dict())
    with pytest.raises(ModelError, match=r"editor\.target: .*instead of \(rows, tokens, width\).*cannot be edited"):
        editor.edit(EDITS[:2])
    assert editor.edits_applied == 0
    assert state_digest(editor.state_dict()) == before


def test_blocks_that_do_not_exist_are_refused() -> None:
    parts = anatomy(build("llama"))
    for block in (-1, 4):
        with pytest.raises(ModelError, match=f"blocks 0 to 3, there is no block {block}"):
            parts.target(block, "auto")


def test_mixtures_of_experts_and_models_without_blocks_are_refused() -> None:
    options = {**COMMON, **MODERN, "intermediate_size": 48, "num_local_experts": 2}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["mixtral"](**options))
    with pytest.raises(ModelError, match=r"block 0: expected one linear map 48 -> 32.*mixture-of-experts"):
        anatomy(model)
    broken = build("llama")
    broken.model.layers = nn.ModuleList(broken.model.layers[:3])
    with pytest.raises(ModelError, match="no list of 4 equal blocks"):
        anatomy(broken)


def test_dimensions_are_in_and_out_for_both_kinds_of_linear_map() -> None:
    gpt2 = build("gpt2")
    assert dimensions(nn.Linear(3, 5)) == (3, 5)
    assert dimensions(gpt2.transformer.h[0].mlp.c_fc) == (32, 128)
    assert dimensions(nn.LayerNorm(3)) is None


def test_a_clone_shares_every_parameter_and_no_module(family: str) -> None:
    model = make_model(family)
    clone = clone_sharing_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), clone.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), clone.buffers(), strict=True))
    assert not {id(m) for m in model.modules()} & {id(m) for m in clone.modules()}
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    assert torch.equal(logits_of(clone, inputs), logits_of(model, inputs))
    clone.get_input_embeddings().register_forward_hook(lambda *_: torch.zeros(1, 3, WIDTH))
    assert not torch.equal(logits_of(clone, inputs), logits_of(model, inputs))


def test_a_base_is_frozen_in_eval_mode_and_can_pad(family: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    base = wrap_base(make_model(family).train().requires_grad_(True), tokenizer, "here")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.pad_token == base.tokenizer.eos_token
    assert base.model.generation_config.pad_token_id == base.tokenizer.pad_token_id


# ---- directories -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directories in the hub's layout, whole or in shards."""

    def make(family: str, shard: str = "5GB") -> Path:
        path = tmp_path_factory.mktemp(f"{family}-{shard}")
        make_model(family).save_pretrained(path, max_shard_size=shard)
        make_tokenizer(bos=family == "llama").save_pretrained(path)
        return path

    return make


@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_directories_are_loaded_whole_or_sharded(
    saved: Callable[..., Path], base: Base, family: str, shard: str
) -> None:
    path = saved(family, shard)
    assert (path / "model.safetensors.index.json").exists() == (shard == "60KB")
    loaded = load_base(str(path), device="cpu")
    assert loaded.source == str(path)
    assert loaded.digest == base.digest
    inputs = padded(base, ["Nobody knew"])
    assert torch.equal(padded(loaded, ["Nobody knew"])["input_ids"], inputs["input_ids"])
    assert torch.equal(logits_of(loaded.model, inputs), logits_of(base.model, inputs))


def test_dtype_decides_the_format_and_the_digest(saved: Callable[..., Path], base_of: Callable[..., Base]) -> None:
    loaded = load_base(str(saved("llama")), dtype="bfloat16", device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.digest == base_of("llama", torch.bfloat16).digest
    assert loaded.digest != base_of("llama").digest
    with pytest.raises(ConfigError, match="unknown 'int8'"):
        load_base("nowhere", dtype="int8")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], r"has no config\.json"),
        (["model.safetensors"], r"has no weights \(expected model\.safetensors"),
        (["tokenizer.json", "tokenizer_config.json"], r"has no tokenizer \(expected tokenizer\.json"),
    ],
)
def test_directories_that_lack_something_are_refused_by_name(
    saved: Callable[..., Path], tmp_path: Path, missing: list[str], message: str
) -> None:
    path = shutil.copytree(saved("llama"), tmp_path / "model")
    for name in missing:
        (path / name).unlink()
    with pytest.raises(ModelError, match=message) as caught:
        load_base(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_shard_and_a_damaged_file_are_told(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = shutil.copytree(saved("llama", "60KB"), tmp_path / "model")
    sorted(path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(path))
    other = shutil.copytree(saved("llama"), tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(other))
    third = shutil.copytree(saved("llama"), tmp_path / "third")
    (third / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(third))


@pytest.mark.parametrize("source", ["./nowhere/at/all", "/nowhere", "~/nowhere-at-all", "a/b/c"])
def test_paths_that_do_not_exist_are_refused_without_asking_a_hub(source: str) -> None:
    with pytest.raises(ModelError, match=f"there is no directory '{source}'"):
        load_base(source)


def test_the_config_alone_can_be_read(saved: Callable[..., Path]) -> None:
    assert load_config(str(saved("llama"))).num_hidden_layers == DEPTH
    with pytest.raises(ModelError):
        load_config("/nowhere")
