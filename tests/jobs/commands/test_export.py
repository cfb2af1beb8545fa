"""`elder export` as a user calls it: from a directory, a run and a registered model; plain transformers loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import elder as library
from elder.editors.weights.rollback import rolled_back
from elder.jobs.main import main
from tests.jobs.conftest import Elder, records, write_jsonl

EDITS = 8
HOW = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 258}
MEMIT = (
    "{method: memit, layers: [1, 2], ridge: 0.1, steps: 4, contexts: 1, context_tokens: 4, jitter: 0.1, text: text.txt}"
)
RUN = (
    "data.source=jsonl", "data.path=edits.jsonl", "data.edits=null", "stream.stage_size=4", "stream.batch_size=2",
    "evaluation.max_new_tokens=2", "evaluation.protocols=[forced]", "evaluation.probes=0", "cluster.workers=0",
    "cluster.sharding=none", "tracking.experiment=test", "gates.reliability=0", "gates.locality=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_directory: Path, empty_database: Path) -> Path:
    """A directory with the result of a run of memit (two stages of two batches), and its record `mlflow.db`."""
    root = tmp_path_factory.mktemp("made")
    rows = records(EDITS)
    write_jsonl(root / "edits.jsonl", rows)
    (root / "text.txt").write_text("\n".join(f"{row['prompt']} {row['target']}." for row in rows))
    shutil.copy(empty_database, root / "mlflow.db")
    given = [
        f"model.source={model_directory}",
        f"editor={MEMIT}",
        "tracking.mlflow=mlflow.db",
        "tracking.register=ours",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = main(["edit", "demo", *RUN, *given, "editor.text_tokens=null", "run_id=r1", "--json", "r.json"])
    assert done == 0
    return root


@pytest.fixture
def adapter(made: Path) -> Path:
    return made / json.loads((made / "r.json").read_text())["adapter"]["uri"]


def assert_says_the_same(place: Path, editor: Any) -> None:
    """Equal answers token by token; logits but for the order of two sums."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    for row in records(EDITS):
        ids = tokenizer(row["prompt"], return_tensors="pt")
        with torch.no_grad():
            said, wanted = model(**ids).logits, editor.model(**ids).logits
        torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        assert torch.equal(model.generate(**ids, **HOW), editor.model.generate(**ids, **HOW))


def test_a_directory_a_run_and_a_registered_model_are_exported(
    elder: Elder, tmp_path: Path, made: Path, adapter: Path
) -> None:
    wanted = library.load_edited(adapter)
    assert wanted.edits_applied == EDITS
    ways = {"directory": [adapter], "run": ["r1"], "stage": ["runs:/r1/stage-0001"], "model": ["models:/ours/1"]}
    files = {}
    for name, ref in ways.items():
        found = elder("export", *ref, name, "--mlflow", made / "mlflow.db", "--json", "m.json")
        assert found.code == 0, found.err
        assert f"{name}: 8 edits" in found.out
        assert f'from_pretrained("{name}")' in found.out
        merged = json.loads((tmp_path / "m.json").read_text())["merged"]
        assert [note["name"] for note in merged] == [f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)]
        assert all(note["size"] > 0 and note["lost"] < 1e-3 for note in merged)
        files[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert len(set(files.values())) == 1
    assert_says_the_same(tmp_path / "model", wanted)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_earlier_batch_is_exported(elder: Elder, tmp_path: Path, adapter: Path, model_directory: Path) -> None:
    editor = library.load_edited(adapter)
    assert elder("export", adapter, "two", "--edits", 2).code == 0
    assert_says_the_same(tmp_path / "two", rolled_back(editor, 2))
    none = elder("export", adapter, "none", "--edits", 0)
    assert none.code == 0, none.err
    theirs = AutoModelForCausalLM.from_pretrained(model_directory).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "none").state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    wrong = elder("export", adapter, "three", "--edits", 3)
    assert wrong.code == 2
    assert "no batch ended after 3 edits" in wrong.err
    assert not (tmp_path / "three").exists()


def test_what_cannot_be_exported_is_told_before_anything_is_written(
    elder: Elder, tmp_path: Path, adapter: Path, made: Path, model_directory: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    refused = elder("export", "runs:/r1", "full", "--mlflow", "http://127.0.0.1:9")
    assert refused.code == 2  # and not 3: the server, which is not there, was not asked
    assert "exists and is not empty" in refused.err
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    absent = elder("export", "models:/theirs@champion", "new", "--mlflow", made / "mlflow.db")
    assert absent.code == 2
    assert "theirs" in absent.err
    (tmp_path / "half").mkdir()
    shutil.copy(adapter / "manifest.json", tmp_path / "half")
    assert "adapter.safetensors' is missing" in elder("export", "half", "new").err
    base = library.load_base(str(model_directory))
    library.make_editor("elder", base, layers=(2, 3)).save(tmp_path / "mixture")
    mixture = elder("export", "mixture", "new")
    assert mixture.code == 2
    assert "elder cannot be merged" in mixture.err
    assert not (tmp_path / "new").exists()


def test_the_embedded_model_is_taken_from_where_the_others_are(
    elder: Elder, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ELDER_HOME says where trained worlds are; a place that cannot be made shows that it was looked at."""
    (tmp_path / "home").touch()
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    found = elder("export", adapter, "new", "--base", "world:tiny")
    assert found.code in (1, 2)
    assert str(tmp_path / "home") in found.err
