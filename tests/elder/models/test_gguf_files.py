"""A GGUF file is converted once, to the bit, and what cannot be taken over whole is refused before it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import import_utils

from elder.errors import ModelError
from elder.models import gguf_files
from elder.models.gguf_files import ensure_gguf, find_gguf, gguf_config
from elder.models.load import load_base, load_config, load_tokenizer
from elder.pipelines.planning.shapes import model_shape
from tests.elder.models.gguf_writing import DEPTH, WIDTH, Tensors, write_gguf

needs_gguf = pytest.mark.skipif(not import_utils.is_gguf_available(), reason="gguf is not installed: elder[gguf]")
OURS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def our_name(name: str) -> str:
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, block, part, _ = name.split(".")
    return f"model.layers.{block}.{OURS[part]}.weight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path)
    return path


def refusal(path: Path, cache: Path) -> str:
    with pytest.raises(ModelError) as caught:
        ensure_gguf(str(path), cache)
    assert str(path) in str(caught.value)
    return str(caught.value)


def left(cache: Path) -> list[str]:
    """What lies in the cache beside locks."""
    return [path.name for path in (cache / "gguf").iterdir() if path.suffix != ".lock"]


# ---- what is kept ----------------------------------------------------------------------------------------------------


@needs_gguf
def test_every_value_of_the_file_is_kept_to_the_bit(tmp_path: Path) -> None:
    values = write_gguf(tmp_path / "tiny.gguf")
    kept = load_file(ensure_gguf(str(tmp_path / "tiny.gguf"), tmp_path / "cache") / "model.safetensors")
    assert set(kept) == {our_name(name) for name in values}
    for name, value in values.items():
        assert torch.equal(kept[our_name(name)], torch.from_numpy(value)), name


@needs_gguf
def test_the_kept_model_says_what_the_file_says_without_the_library(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ensure_gguf(str(file), tmp_path / "cache")
    monkeypatch.setattr(import_utils, "is_gguf_available", lambda: False)
    base = load_base(str(file), device="cpu", cache_dir=tmp_path / "cache")
    ids = torch.arange(40).reshape(2, 20)
    assert torch.equal(base.model(ids).logits, direct(ids).logits)
    assert base.source == str(file)
    assert base.chat is not None
    assert base.chat.render("the town") == "[user] the town\n[assistant] "
    assert len(base.tokenizer) == base.model.get_input_embeddings().num_embeddings
    assert base.tokenizer.decode(base.tokenizer("to the town")["input_ids"]) == "to the town"


@needs_gguf
def test_the_digest_of_the_base_is_that_of_the_same_model_in_a_directory(file: Path, tmp_path: Path) -> None:
    kept = ensure_gguf(str(file), tmp_path / "cache")
    directory = shutil.copytree(kept, tmp_path / "plain")
    bases = [load_base(str(place), device="cpu", cache_dir=tmp_path / "cache") for place in (file, directory)]
    assert bases[0].digest == bases[1].digest
    other = tmp_path / "other.gguf"
    write_gguf(other, seed=1)
    assert load_base(str(other), device="cpu", cache_dir=tmp_path / "cache").digest != bases[0].digest


@needs_gguf
def test_config_tokenizer_and_shape_are_those_of_the_file(file: Path, tmp_path: Path) -> None:
    assert gguf_config(str(file)).hidden_size == WIDTH
    assert not (tmp_path / "cache").exists()
    assert model_shape(str(file)).blocks == DEPTH
    config = load_config(str(file), cache_dir=tmp_path / "cache")
    assert (config.num_hidden_layers, config.max_position_embeddings, config.tie_word_embeddings) == (DEPTH, 256, True)
    assert not hasattr(config, "quantization_config")
    assert load_tokenizer(str(file), cache_dir=tmp_path / "cache").eos_token == "</s>"


# ---- once ------------------------------------------------------------------------------------------------------------


@needs_gguf
def test_a_file_is_converted_once_wherever_it_lies(file: Path, tmp_path: Path) -> None:
    assert find_gguf(str(file), tmp_path / "cache") is None
    home = ensure_gguf(str(file), tmp_path / "cache")
    stamp = (home / "model.safetensors").stat().st_mtime_ns
    moved = Path(shutil.copy(file, tmp_path / "Another Name.GGUF"))
    assert ensure_gguf(str(moved), tmp_path / "cache") == home == find_gguf(str(moved), tmp_path / "cache")
    assert (home / "model.safetensors").stat().st_mtime_ns == stamp
    assert json.loads((home / "gguf.json").read_text())["bytes"] == file.stat().st_size
    assert left(tmp_path / "cache") == [home.name]


@needs_gguf
def test_a_file_that_changes_under_its_name_is_another_model(file: Path, tmp_path: Path) -> None:
    first = ensure_gguf(str(file), tmp_path / "cache")
    write_gguf(file, seed=1)
    assert ensure_gguf(str(file), tmp_path / "cache") != first


@needs_gguf
def test_two_that_want_the_same_file_convert_it_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[Path] = []
    found: list[Path] = []
    convert = gguf_files.convert

    def counted(path: Path, directory: Path, source: str) -> None:
        converted.append(path)
        convert(path, directory, source)

    monkeypatch.setattr(gguf_files, "convert", counted)
    threads = [Thread(target=lambda: found.append(ensure_gguf(str(file), tmp_path / "cache"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 2
    assert len(converted) == 1


@needs_gguf
def test_what_lies_beside_the_file_does_not_belong_to_it(file: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "generation_config.json", "config.json", "tokenizer_config.json"):
        (file.parent / name).write_text('{"eos_token_id": 7, "base_model_name_or_path": "x", "peft_type": "LORA"}')
    home = ensure_gguf(str(file), tmp_path / "cache")
    assert json.loads((home / "generation_config.json").read_text())["eos_token_id"] != 7
    assert not (home / "adapter_config.json").exists()


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.gguf", tmp_path / "cache")


def test_the_extra_is_named_where_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(import_utils, "is_gguf_available", lambda: False)
    said = refusal(path, tmp_path / "cache")
    assert "with gguf: pip install 'elder[gguf]'" in said
    assert not (tmp_path / "cache").exists()


@needs_gguf
@pytest.mark.parametrize("content", [b"", b"GGU", b"a text\n" * 40, b"\x80\x02safetensors"])
def test_another_kind_of_file_is_refused_before_anything_is_written(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    assert "is no GGUF file" in refusal(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@needs_gguf
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused_before_anything_is_written(file: Path, tmp_path: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: max(4, int(len(whole) * share))])
    assert "is damaged or cut off" in refusal(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@needs_gguf
@pytest.mark.parametrize("offset", [4, 8, 16])
def test_a_header_that_counts_wrongly_is_refused(file: Path, tmp_path: Path, offset: int) -> None:
    """Version, number of tensors, number of keys."""
    content = bytearray(file.read_bytes())
    content[offset : offset + 4] = b"\xff\xff\xff\x7f"
    file.write_bytes(content)
    assert "is damaged or cut off" in refusal(file, tmp_path / "cache")


def poisoned(weights: Tensors) -> None:
    weights["blk.1.ffn_norm.weight"][3] = np.nan


@needs_gguf
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("blk.1.ffn_down.weight"), "lacks 1 tensors"),
        (lambda weights: weights.update({"rope_freqs.weight": np.ones(4, np.float32)}), "would be another model"),
        (lambda weights: weights.update({"blk.0.attn_q.bias": np.ones(WIDTH, np.float32)}), "would be another model"),
        (poisoned, "hold values that are no numbers"),
    ],
)
def test_what_would_be_another_model_is_not_kept(change: Callable[[Tensors], Any], said: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", change)
    assert said in refusal(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert left(tmp_path / "cache") == []


@needs_gguf
def test_a_cache_that_cannot_be_made_is_said_plainly(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert "cannot be kept under" in refusal(file, tmp_path / "cache")
