"""Bad input: each kind stops `elder edit` before work starts, with a message that says where and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.jobs.conftest import Elder, records, write_jsonl

UNTRACKED = ("tracking.mlflow=null", "tracking.register=null")  # opening a new MLflow database takes seconds


@pytest.fixture(autouse=True)
def nothing_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is reached although the input is bad fails the test."""

    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("work was started")

    monkeypatch.setattr("elder.pipelines.edit.driver.run_edit", started)


def refused(elder: Elder, small_run: list[str], *overrides: object, code: int = 2) -> str:
    """Run `elder edit` and return what it complained about."""
    found = elder("edit", "demo", *small_run, *overrides)
    assert found.code == code, found.err
    assert "Traceback" not in found.err
    assert "AssertionError" not in found.err
    return found.err


def test_a_good_run_would_start(elder: Elder, small_run: list[str]) -> None:
    found = elder("edit", "demo", *small_run, *UNTRACKED)
    assert found.code == 1
    assert "work was started" in found.err


def test_malformed_line(elder: Elder, small_run: list[str], edits_file: Path) -> None:
    lines = edits_file.read_text().splitlines()
    edits_file.write_text("\n".join([*lines[:2], '{"prompt": "x", ', *lines[3:]]) + "\n")
    assert "edits.jsonl:3" in refused(elder, small_run)


def test_missing_field_and_empty_target_are_reported_together(
    elder: Elder, small_run: list[str], edits_file: Path
) -> None:
    rows = records(8)
    del rows[1]["target"]
    rows[4]["target"] = "  "
    write_jsonl(edits_file, rows)
    err = refused(elder, small_run)
    assert "edits.jsonl:2" in err
    assert "'target' is missing" in err
    assert "edits.jsonl:5" in err
    assert "'target' is empty" in err


def test_duplicate_ids(elder: Elder, small_run: list[str], edits_file: Path) -> None:
    rows = [{**row, "id": f"e{i}"} for i, row in enumerate(records(8))]
    rows[6]["id"] = "e2"
    write_jsonl(edits_file, rows)
    assert "e2" in refused(elder, small_run)


def test_prompt_longer_than_the_context(elder: Elder, small_run: list[str], edits_file: Path) -> None:
    rows = records(8)
    rows[3]["prompt"] = "Person 3, " * 30 + "lives in"
    write_jsonl(edits_file, rows)
    err = refused(elder, small_run)
    assert "96" in err
    assert "token" in err


def test_same_prompt_with_two_targets(elder: Elder, small_run: list[str], edits_file: Path) -> None:
    rows = records(8)
    write_jsonl(edits_file, [*rows, {**rows[0], "target": "Paris"}])
    err = refused(elder, small_run)
    assert "Oslo" in err
    assert "Paris" in err
    assert "last_wins" in err
    accepted = elder("validate", "demo", *small_run, "stream.conflicts=last_wins")
    assert accepted.code == 0
    assert "8 edits" in accepted.out


def test_absent_and_empty_files(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    assert "nowhere.jsonl" in refused(elder, small_run, "data.path=nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in refused(elder, small_run, "data.path=empty.jsonl")


def test_unknown_config_key(elder: Elder, small_run: list[str]) -> None:
    err = refused(elder, small_run, "stream.stagesize=3")
    assert "command line: stream.stagesize" in err
    assert "did you mean 'stage_size'" in err


def test_unknown_dataset(elder: Elder, small_run: list[str]) -> None:
    assert "counterfact" in refused(elder, small_run, "data.source=counterfakt")


def test_model_directory_without_weights(
    elder: Elder, small_run: list[str], model_directory: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model_directory, bare, ignore=shutil.ignore_patterns("*.safetensors*"))
    err = refused(elder, small_run, f"model.source={bare}")
    assert "no weights" in err
    assert str(bare) in err
    assert "no directory" in refused(elder, small_run, "model.source=./absent")


def test_weights_that_cannot_be_loaded(
    elder: Elder, small_run: list[str], model_directory: Path, tmp_path: Path
) -> None:
    cut = shutil.copytree(model_directory, tmp_path / "cut")
    shard = sorted(cut.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-40])
    assert "is damaged" in refused(elder, small_run, f"model.source={cut}")
    other = shutil.copytree(model_directory, tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    assert "the config belongs to another model" in refused(elder, small_run, f"model.source={other}")
    assert "'model.norm.weight' has 1 of them" in refused(elder, small_run, f"model.source={not_a_number(other)}")
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "other", "edits.jsonl"}  # no store, no record


def not_a_number(model: Path) -> Path:
    """A model directory again as it was, but for one value."""
    from safetensors.torch import load_file, save_file

    config = model / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 40', '"intermediate_size": 48'))
    shard = next(shard for shard in model.glob("model-*.safetensors") if "model.norm.weight" in load_file(shard))
    state = load_file(shard)
    state["model.norm.weight"][3] = float("nan")
    save_file(state, shard, {"format": "pt"})
    return model


def test_a_text_for_the_perplexity_that_is_not_there(elder: Elder, small_run: list[str]) -> None:
    assert "absent.txt" in refused(elder, small_run, "evaluation.perplexity_text=absent.txt")


def test_files_that_are_no_plain_files(
    elder: Elder, small_run: list[str], model_directory: Path, tmp_path: Path
) -> None:
    for name in ("edits.jsonl.gz", "edits.csv", "text.txt", "config.yaml"):
        (tmp_path / name).symlink_to("/dev/null")  # which a reader that opens it finds empty
    model = shutil.copytree(model_directory, tmp_path / "model")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to("/dev/null")
    for override in ("data.path=edits.jsonl.gz", "data.path=edits.csv", "evaluation.perplexity_text=text.txt",
                     f"model.source={model}"):  # fmt: skip
        assert "it is a device" in refused(elder, small_run, override)
    (tmp_path / "config").symlink_to("/dev/null")
    for words in (("edit", "config.yaml"), ("validate", "config"), ("cp", "config", "new"), ("cp", "demo", "text.txt")):
        found = elder(*words)
        assert (found.code, "it is a device" in found.err) == (2, True)
    templates = shutil.copytree(model_directory, tmp_path / "templates") / "additional_chat_templates"
    templates.mkdir()
    (templates / "x.jinja").symlink_to("/dev/null")
    assert "it is a device" in refused(elder, small_run, "model.source=templates")


def test_a_config_that_is_no_text_is_not_copied(elder: Elder, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(b"name: \xff")
    found = elder("cp", "odd.yaml", "new.yaml")
    assert (found.code, "odd.yaml: cannot be read" in found.err) == (2, True)
    assert not (tmp_path / "new.yaml").exists()


def test_model_and_data_are_reported_together(elder: Elder, small_run: list[str]) -> None:
    err = refused(elder, small_run, "model.source=./absent", "data.path=nowhere.jsonl")
    assert "./absent" in err
    assert "nowhere.jsonl" in err


def test_store_that_refuses_writes(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert str(tmp_path / "file") in refused(elder, small_run, f"tracking.store={tmp_path}/file/store", code=3)
    assert "tracking.store" in refused(elder, small_run, "tracking.store=ftp://x/y")
    assert "tracking.mlflow" in refused(elder, small_run, "tracking.mlflow=ftp://x/y")


def test_tracker_that_does_not_answer(elder: Elder, small_run: list[str]) -> None:
    err = refused(elder, small_run, "tracking.mlflow=http://127.0.0.1:9", code=3)
    assert "http://127.0.0.1:9" in err


def test_a_sharded_run_needs_no_compiler(
    elder: Elder, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = elder("edit", "demo", *small_run, "cluster.workers=2", "cluster.sharding=zero3", *UNTRACKED)
    assert "work was started" in found.err


@pytest.mark.parametrize(
    ("name", "why"),
    [("/proc/result.json", "/proc/result.json"), ("", "it is a directory"), ("x" * 300, "too long")],
    ids=["folder", "empty", "long"],
)
def test_result_file_that_cannot_be_written(elder: Elder, small_run: list[str], name: str, why: str) -> None:
    assert why in refused(elder, small_run, "--json", name)


def test_a_full_disk_under_the_temporary_files(
    elder: Elder, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr("elder.pipelines.edit.driver.run_edit", full)
    err = refused(elder, small_run, *UNTRACKED, code=3)
    assert "No space left on device" in err
    assert "TMPDIR" in err
    assert "continue with: elder edit" in err
