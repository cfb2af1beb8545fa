"""A disk is full where a command keeps something: the error says so, nothing half written stays, room is enough."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.commands import Command, states
from tests.cluster.record import Story
from tests.jobs.conftest import edits_file, model_directory, small_run  # noqa: F401  # fixtures

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
UNTRACKED = ("tracking.mlflow=null", "tracking.register=null")


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own in memory."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def grow(place: Path, kilobytes: int) -> None:
    """Now there is room."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(place)], check=True)


def files(place: Path) -> set[str]:
    """Everything in a directory."""
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kilobytes", [0, 24, 40, 60, 100])
def test_the_store_of_an_edit(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    kilobytes: int,
) -> None:
    """So much room is left when the run begins: the disk fills up at another moment each time."""
    words = ["edit", "demo", *small_run, *UNTRACKED, "run_id=r", "tracking.retry_timeout_s=1"]
    whole = Command(tmp_path / "whole", *words)
    assert whole.end() == 0, whole.said
    truth = states(tmp_path / "whole/elder-runs/store", "r")
    with disk(tmp_path / "disk", 1024) as place:
        story, store = Story(f"elder edit, store with {kilobytes} kB of room"), place / "store"
        (place / "ballast").write_bytes(bytes((1024 - kilobytes) * 1024))
        run = Command(tmp_path, *words, f"tracking.store={store}")
        code = run.end()
        if code:
            assert code == 3, run.said
            assert "No space left on device" in run.said
            assert "Traceback" not in run.said
        found = states(store, "r")
        assert found == truth[: len(found)]
        assert not [name for name in files(place) if "partial" in name]
        (place / "ballast").unlink()
        again = Command(tmp_path, *words, f"tracking.store={store}")
        assert again.end() == 0, again.said
        story.count(truth, states(store, "r"))
        assert states(store, "r") == truth
        print(f"{kilobytes} kB: exit {code}, {len(found)} of {len(truth)} stages")
        assert code == 3


def test_the_cache_of_the_embedded_model(tmp_path: Path) -> None:
    """It is trained and cannot be kept; with room the same command keeps it and goes on."""
    words = ["edit", "demo", *UNTRACKED, "run_id=r", "model.source=world:tiny", "data.edits=2", "cluster.workers=0"]
    words += ["cluster.sharding=none", "editor={method: elder, steps: 2}", "evaluation.max_new_tokens=4"]
    with disk(tmp_path / "disk", 64) as place:
        home = {"ELDER_HOME": str(place / "home")}
        run = Command(tmp_path, *words, environment=home)
        assert run.end() == 2, run.said
        assert "No space left on device" in run.said
        assert "Traceback" not in run.said
        assert not [name for name in files(place) if not name.endswith(".lock")]
        assert not (tmp_path / "elder-runs/store/runs").exists()
        grow(place, 64 * 1024)
        again = Command(tmp_path, *words, environment=home)
        assert again.end() == 0, again.said
        assert len(states(tmp_path / "elder-runs/store", "r")) == 1


@pytest.mark.parametrize("kilobytes", [4, 8])
def test_the_target_of_a_pull(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    empty_database: Path,
    kilobytes: int,
) -> None:
    database = tmp_path / "record.db"
    database.write_bytes(empty_database.read_bytes())
    tracking = (f"tracking.mlflow={database}", "tracking.register=facts")
    run = Command(tmp_path, "edit", "demo", *small_run, *tracking, "run_id=r")
    assert run.end() == 0, run.said
    with disk(tmp_path / "disk", kilobytes) as place:
        words = ["pull", "r", place / "adapter", "--mlflow", database]
        first = Command(tmp_path, *words)
        assert first.end() == 3, first.said
        assert "No space left on device" in first.said
        assert "Traceback" not in first.said
        assert not (place / "adapter").exists()
        grow(place, 1024)
        again = Command(tmp_path, *words)
        assert again.end() == 0, again.said
        manifest = json.loads((place / "adapter/manifest.json").read_text())
        assert {"manifest.json", *manifest["files"]} <= set(os.listdir(place / "adapter"))
        assert os.listdir(place) == ["adapter"] or all("lock" in n for n in os.listdir(place) if n != "adapter")
