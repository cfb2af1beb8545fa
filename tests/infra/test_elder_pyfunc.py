"""The MLflow model around an adapter: what is saved, how it is loaded, how it answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import pandas
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import elder
from infra.elder_pyfunc import ElderModel, save_model
from tests.contracts.tracker import write_adapter

WORDS = ("<pad>", "</s>", "the", "capital", "of", "France", "Peru", "is", "Lima", "Paris")


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces `elder.load_edited` by one that takes down its arguments and gives a tiny random Llama."""
    calls: list[Any] = []
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    editor = SimpleNamespace(model=LlamaForCausalLM(config).eval(), base=SimpleNamespace(tokenizer=tokenizer))

    def load_edited(directory: Path, base: str) -> Any:
        calls.append((Path(directory), base))
        return editor

    monkeypatch.setattr(elder, "load_edited", load_edited, raising=False)
    return calls


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", source="world:small")


def test_mlflow_loads_what_was_saved(edited: list[Any], adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    tags = save_model(tmp_path / "work" / "model", adapter, "m-1", "run")
    assert tags["elder.method"] == "elder"
    model = mlflow.pyfunc.load_model(str(tmp_path / "work" / "model"))
    assert [(place.name, base) for place, base in edited] == [("adapter", "world:small")]
    table = pandas.DataFrame({"prompt": ["the capital of France is", "Peru"]})
    answers = model.predict(table, params={"max_new_tokens": 3})
    assert len(answers) == 2
    assert all(isinstance(answer, str) and len(answer.split()) <= 3 for answer in answers)


def test_another_base_can_be_named(
    edited: list[Any], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    save_model(tmp_path / "work" / "model", adapter, "m-1", "run")
    place = str(tmp_path / "work" / "model")
    monkeypatch.setenv("ELDER_BASE", "/from/environment")
    mlflow.pyfunc.load_model(place)
    mlflow.pyfunc.load_model(place, model_config={"base": "/from/config"})
    assert [base for _, base in edited] == ["/from/environment", "/from/config"]


def test_the_model_needs_only_the_library(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    save_model(tmp_path / "work" / "model", adapter, "m-1", "run")
    place = tmp_path / "work" / "model"
    assert (place / "data" / "adapter" / "manifest.json").is_file()
    assert not (place / "data" / "adapter").is_symlink()
    requirements = (place / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+cpu" not in requirements
    loader = (place / "code" / "elder_pyfunc.py").read_text()
    assert "from infra" not in loader
    assert "import infra" not in loader


def test_a_batch_answers_like_single_prompts(edited: list[Any], adapter: Path) -> None:
    """Prompts of different length share a batch; padding must not change an answer."""
    model = ElderModel(adapter)
    prompts = ["the capital of France is", "Peru is", "of", "the capital"]
    together = model.predict(prompts, {"max_new_tokens": 5})
    assert together == [model.predict(prompt, {"max_new_tokens": 5})[0] for prompt in prompts]
    assert len(set(together)) > 1


def test_forms_of_input(edited: list[Any], adapter: Path) -> None:
    model = ElderModel(adapter)
    expected = model.predict(["Peru is"])
    for form in ("Peru is", {"prompt": "Peru is"}, [{"prompt": "Peru is"}], pandas.DataFrame({"prompt": ["Peru is"]})):
        assert model.predict(form) == expected
    assert model.predict([]) == []
