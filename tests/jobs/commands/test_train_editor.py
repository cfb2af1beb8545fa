"""`elder train-editor` through the command line on the small embedded world, and what uses the trained editor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from elder.errors import ConfigError
from elder.infra.stores.open import open_store
from elder.jobs.remote.package import SubmitRequest, check_stored, metadata, pack, resolve_request
from elder.jobs.remote.run_status import run_status_of
from elder.pipelines.config.training import parse_train_config
from elder.pipelines.run.commits import RunState
from tests.jobs.conftest import Elder

TINY = (
    "model.source=world:tiny", "data.source=world:tiny", "data.skip=40", "validation.edits=10",
    "validation.block_size=10", "editor.n_edits=10", "editor.rank=16", "training.steps=4",
    "training.checkpoint_every=2", "cluster.workers=0",
)  # fmt: skip
EDIT = (
    "model.source=world:tiny", "data.source=world:tiny", "data.edits=10", "stream.stage_size=10",
    "stream.batch_size=10", "gates.reliability=0", "gates.locality=0", "cluster.workers=0", "cluster.sharding=none",
    "editor.method=malmen", "tracking.mlflow=null", "tracking.register=null", "evaluation.protocols=[forced]",
)  # fmt: skip
NO_RECORD = ("tracking.mlflow=null", "tracking.register=null")


def test_a_trained_editor_edits(elder: Elder, tmp_path: Path) -> None:
    done = elder("train-editor", "train/malmen_world", *TINY, *NO_RECORD, "run_id=t1", "--json", "t.json")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "t.json").read_text())
    assert (result["kind"], len(result["stages"])) == ("training", 2)
    assert "editor.trained=t1" in done.out
    edited = elder("edit", "demo", *EDIT, "editor.trained=t1", "run_id=e1", "--json", "e.json")
    assert edited.code == 0, edited.err
    final = json.loads((tmp_path / "e.json").read_text())["final"]
    assert final["edit.accepted"] == 1.0
    record = RunState(open_store("elder-runs/store"), "e1").record()
    assert record is not None
    assert record["trained"]["run_id"] == "t1"
    assert record["trained"]["stage"] == result["chosen"]
    place = result["adapter"]["uri"]
    directory = elder("edit", "demo", *EDIT, f"editor.trained={place}", "run_id=e2", "--json", "e2.json")
    assert directory.code == 0, directory.err
    assert json.loads((tmp_path / "e2.json").read_text())["final"] == final
    absent = elder("edit", "demo", *EDIT, "editor.trained=absent", "run_id=e3")
    assert absent.code == 2
    assert "elder train-editor CONFIG run_id=absent" in absent.err
    again = elder("train-editor", "train/malmen_world", *TINY, *NO_RECORD, "run_id=t1", "editor.rank=8")
    assert again.code == 2
    assert "editor.rank: 16 -> 8" in again.err


@pytest.mark.cluster
def test_a_training_is_recorded_and_pulled(elder: Elder, tmp_path: Path) -> None:
    name = ("tracking.register=ours", "tracking.alias=candidate")
    done = elder("train-editor", "train/malmen_world", *TINY, *name, "run_id=t1", "--json", "t.json")
    assert done.code == 0, done.err
    shown = elder("show", "t1")
    for text in ("validation.ES", "training", "models:/ours/1 @candidate"):
        assert text in shown.out
    assert "t1" in elder("runs").out
    for ref in ("t1", "models:/ours@candidate"):
        pulled = elder("pull", ref, "pulled-" + ref[:2])
        assert pulled.code == 0, pulled.err
        assert "malmen editor, trained for world:tiny" in pulled.out
        files = sorted(path.name for path in (tmp_path / ("pulled-" + ref[:2])).iterdir())
        assert files == ["adapter.safetensors", "manifest.json"]
    edited = elder("edit", "demo", *EDIT, "editor.trained=pulled-mo", "run_id=e1")
    assert edited.code == 0, edited.err


def test_a_training_is_planned_and_validated(elder: Elder, tmp_path: Path) -> None:
    planned = elder("plan", "train/malmen_world", *TINY, "run_id=t1", "--json", "p.json")
    assert planned.code == 0, planned.err
    record = json.loads((tmp_path / "p.json").read_text())
    assert (record["checkpoints"], record["facts"]) == (2, 40)
    assert "runs/t1/stages/000001/COMMIT.json" in record["keys"]
    (tmp_path / "p.json").unlink()
    assert list(tmp_path.iterdir()) == []
    validated = elder("validate", "train/malmen_world", *TINY)
    assert validated.code == 0, validated.err
    assert "facts to train on, 10 to measure" in validated.out
    assert "# read: " in validated.out
    wrong = elder("validate", "train/malmen_world", *TINY, "data.edits=15", "editor.rnk=3")
    assert wrong.code == 2
    assert "did you mean 'rank'" in wrong.err
    assert elder("edit", "train/malmen_world").code == 2
    copied = elder("cp", "train/mend_world", "mine.yaml")
    assert "elder train-editor mine.yaml" in copied.out


def test_a_training_travels_and_its_checkpoints_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("train/malmen_world", *TINY, *NO_RECORD, "tracking.store=store", "run_id=t1")
    request = SubmitRequest("train-editor", given, "http://127.0.0.1:1")
    parcel = resolve_request(request)
    target = tmp_path / "target"
    target.mkdir()
    packed, _ = pack(parcel, target)
    there = parse_train_config((target / "run/config.yaml").read_text())
    assert (there.run_id, there.tracking.store) == ("t1", str(tmp_path / "store"))
    assert (target / "run/arguments").read_text().startswith("train-editor ")
    facts = metadata(parcel, 1, packed)
    assert (facts["elder.stages"], facts["elder.stage_size"]) == ("2", "20")
    store = open_store("store")
    store.put("runs/t1/config.yaml", (target / "run/config.yaml").read_bytes())
    assert run_status_of(facts, "t1").words(0.0) == "no stage committed yet"
    check_stored(parcel, packed)
    (tmp_path / "other").mkdir()
    longer = resolve_request(replace(request, arguments=(*given, "training.steps=6")))
    changed, _ = pack(longer, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"training\.steps: 4 -> 6"):
        check_stored(longer, changed)
