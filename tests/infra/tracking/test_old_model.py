"""A model that an older version logged to MLflow, with the loader of its time in it, answers under this version."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import pytest

import elder
from elder.infra.tracking.elder_pyfunc import ElderModel
from tests.data.make import small_base
from tests.golden.streams import answers_of

DATA = Path(__file__).resolve().parents[2] / "data"
PROMPTS: list[str] = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))["prompts"]
TOKENS = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base model as a directory."""
    directory, made = str(tmp_path_factory.mktemp("base")), small_base()
    made.model.save_pretrained(directory)
    made.tokenizer.save_pretrained(directory)
    return directory


def test_its_own_loader_and_ours_answer_alike(base: str) -> None:
    """As the editor answers, up to where an answer ends."""
    logged = mlflow.pyfunc.load_model(str(DATA / "logged_model"), model_config={"base": base})
    said = logged.predict(PROMPTS, params=TOKENS)
    assert any(said)
    assert ElderModel(DATA / "logged_model" / "data" / "adapter", base).predict(PROMPTS, TOKENS) == said
    editor = elder.load_edited(DATA / "adapters" / "memit", base=base)
    whole = answers_of(editor, PROMPTS, tokens=3)
    assert all(answer.startswith(text) for answer, text in zip(whole, said, strict=True))
