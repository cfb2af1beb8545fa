"""The MLflow model around an adapter: what is saved, how it is loaded, how it answers. With a real edited model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlflow.pyfunc
import pandas
import pytest

import elder
from elder.base import Editor
from elder.errors import AdapterError, ElderError, InputError
from elder.infra.tracking.elder_pyfunc import ElderModel, save_model
from elder.infra.tracking.pointer import make_pointer
from elder.metrics.generation import Decoder, generate
from elder.tokens import encode_prompt
from tests.cluster.tiny import make_edits, write_model

EDITS = make_edits(4)
PROMPTS = [edit.prompt for edit in EDITS] + ["Water", "what is thing t9 ?"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pyfunc")


@pytest.fixture(scope="module")
def editor(place: Path) -> Editor:
    """A tiny Llama with four edits; its adapter lies in `adapter/`, an MLflow model of it in `work/model/`."""
    base = elder.load_base(str(write_model(place / "base", "llama")), device="cpu")
    editor = elder.make_editor("elder", base, steps=10, lr=1e-2)
    editor.edit(EDITS)
    editor.save(place / "adapter")
    (place / "work").mkdir()
    save_model(place / "work" / "model", place / "adapter", "m-1", "run")
    return editor


def expected(editor: Editor, prompts: list[str], limit: int) -> list[str]:
    tokenizer = editor.base.tokenizer
    ids = [tuple(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    decoder = Decoder.to_stop(tokenizer, limit, batch_size=1)
    return [said.text for said in generate(editor.model, ids, decoder, editor.base.runtime)]


def test_mlflow_loads_it_and_it_answers_like_the_edited_model(editor: Editor, place: Path) -> None:
    model = mlflow.pyfunc.load_model(str(place / "work" / "model"))
    answers = model.predict(pandas.DataFrame({"prompt": PROMPTS}), params={"max_new_tokens": 4})
    assert answers == expected(editor, PROMPTS, 4)
    with editor.disabled():
        assert answers != expected(editor, PROMPTS, 4)


def test_the_base_comes_from_config_or_environment(
    editor: Editor, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest's base is gone; the model was moved to another machine."""
    moved = Path(shutil.copytree(place / "work" / "model", tmp_path / "model"))
    manifest = moved / "data" / "adapter" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["base"]["source"] = str(tmp_path / "gone")
    manifest.write_text(json.dumps(content))
    with pytest.raises(ElderError, match="gone"):
        mlflow.pyfunc.load_model(str(moved))
    model = mlflow.pyfunc.load_model(str(moved), model_config={"base": str(place / "base")})
    assert model.predict(["Water"], params={"max_new_tokens": 3}) == expected(editor, ["Water"], 3)
    monkeypatch.setenv("ELDER_BASE", str(place / "base"))
    model = mlflow.pyfunc.load_model(str(moved))
    assert model.predict(["Water"], params={"max_new_tokens": 3}) == expected(editor, ["Water"], 3)


def test_the_model_needs_only_the_library(editor: Editor, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = place / "work" / "model"
    assert (model / "data" / "adapter" / "manifest.json").is_file()
    assert not (model / "data" / "adapter").is_symlink()
    requirements = (model / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+cpu" not in requirements
    monkeypatch.setitem(sys.modules, "infra", None)  # not installed where the model is loaded
    loaded = mlflow.pyfunc.load_model(str(model))
    assert loaded.predict(["Water"], params={"max_new_tokens": 3}) == expected(editor, ["Water"], 3)


def test_a_pointer_is_followed_once_and_says_what_is_missing(
    editor: Editor, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter lies in a store, as a large one does; the model has its manifest and where it is."""
    store = Path(shutil.copytree(place / "adapter", tmp_path / "store"))
    pointed = tmp_path / "pointed"
    pointed.mkdir()
    shutil.copy(store / "manifest.json", pointed)
    (pointed / "pointer.json").write_text(make_pointer(store, str(store), {}).to_json())
    (tmp_path / "work").mkdir()
    save_model(tmp_path / "work" / "model", pointed, "m-1", "run")
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "elder.infra.tracking.pointer", None)
        with pytest.raises(AdapterError, match=r"too large for MLflow and lies in .*elder pull REF DIR"):
            mlflow.pyfunc.load_model(str(tmp_path / "work" / "model"))
    with pytest.raises(InputError, match="configured here is none"):
        mlflow.pyfunc.load_model(str(tmp_path / "work" / "model"))
    monkeypatch.setenv("ELDER_STORE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"configured here is .*elsewhere"):
        mlflow.pyfunc.load_model(str(tmp_path / "work" / "model"))
    monkeypatch.setenv("ELDER_STORE", str(tmp_path))
    for _ in range(2):  # the second time from what was kept, the store is gone
        loaded = mlflow.pyfunc.load_model(str(tmp_path / "work" / "model"))
        assert loaded.predict(PROMPTS, params={"max_new_tokens": 4}) == expected(editor, PROMPTS, 4)
        shutil.rmtree(store, ignore_errors=True)


def test_forms_of_input(editor: Editor, place: Path) -> None:
    model = ElderModel(place / "adapter")
    prompt = EDITS[0].prompt
    answer = expected(editor, [prompt], 32)
    for form in (prompt, [prompt], {"prompt": prompt}, [{"prompt": prompt}], pandas.DataFrame({"prompt": [prompt]})):
        assert model.predict(form) == answer
    assert model.predict([]) == []
