"""Model directories from elsewhere: what is wrong with a file is one error, and none of their code is run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elder.errors import ModelError
from elder.models.foreign import refusing
from elder.models.load import load_base, load_config, load_tokenizer
from tests.elder.tiny import make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("gpt2").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def refusal(folder: Path, load: Callable[..., object] = load_base) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", "3", "{", '{"a":' * 50_000, "\ud83d"])
def test_files_that_are_no_json_object_are_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode(errors="surrogatepass"))
    assert f"{name} cannot be read" in refusal(folder)
    for load in (load_config, load_tokenizer):
        assert name in refusal(folder, load)


def test_a_config_may_hold_infinity_and_a_key_twice(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"limits": [0.0, Infinity], "limits": [NaN],', 1))
    assert load_base(str(folder), device="cpu").model is not None


@pytest.mark.parametrize(
    "entries",
    [{"model_type": "nobody"}, {"model_type": ["gpt2"]}, {"model_type": None}, {"n_head": 0}, {"n_embd": "wide"},
     {"n_layer": -1}, {"activation_function": "nonsense"}, {"vocab_size": [1]}, {"transformers_weights": ["x"]},
     {"transformers_weights": "../x"}, {"auto_map": {"AutoConfig": "x.Y"}, "model_type": "nobody"}],
)  # fmt: skip
def test_configs_that_no_library_can_use_are_refused(folder: Path, entries: dict[str, Any]) -> None:
    change(folder, **entries)
    assert "model.source" in refusal(folder)


def test_more_blocks_than_there_can_be_are_refused_before_anything_is_built(folder: Path) -> None:
    change(folder, n_layer=10**9)
    assert "asks for 1e+09 blocks, at most 10,000" in refusal(folder)
    assert "asks for 1e+09 blocks" in refusal(folder, load_config)
    change(folder, n_layer=9_999)
    assert "asks for 9999 blocks, the files hold" in refusal(folder)


def test_labels_without_end_are_refused_before_each_gets_a_name(folder: Path) -> None:
    change(folder, num_labels=10**9)
    for load in (load_base, load_config):
        assert "config.json asks for 1e+09 labels, at most 1,000,000" in refusal(folder, load)


@pytest.mark.parametrize("longest", ["long", {}, [1]])
def test_a_tokenizer_that_fails_at_its_first_text_is_refused(folder: Path, longest: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": longest}))
    for load in (load_base, load_tokenizer):
        assert "cannot be loaded (AutoTokenizer)" in refusal(folder, load)


def test_code_beside_a_model_is_neither_run_nor_asked_about(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(folder, model_type="own", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    for load in (load_base, load_config):
        assert "contains custom code" in refusal(folder, load)
    assert not (tmp_path / "ran").exists()


class _Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["code", "list", "text", "cut", "zip"])
def test_pickled_weights_that_are_none_are_refused_and_run_nothing(folder: Path, tmp_path: Path, kind: str) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if kind == "code":
        path.write_bytes(pickle.dumps(_Opens(tmp_path / "ran")))
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        torch.save(make_model("gpt2").state_dict(), path)
        content = path.read_bytes()
        path.write_bytes(
            {"text": b"hello", "cut": content[: len(content) // 2], "zip": content[:2] + content[30:]}[kind]
        )
    assert "pytorch_model.bin is damaged" in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{]"])
def test_safetensors_that_are_none_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is damaged" in refusal(folder)


def test_what_a_library_written_in_rust_says_of_its_own_bugs_is_an_error_too() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(ModelError, match=r"'m' cannot be loaded \(tokenizer\): it broke"), refusing("m", "tokenizer"):
        raise PanicException("it broke")
    with pytest.raises(KeyboardInterrupt), refusing("m", "tokenizer"):
        raise KeyboardInterrupt
