"""A finished search that is sent again with more trials, short of a cluster: what the job gets, and then does."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elder.errors import ConfigError
from elder.infra.ray_jobs.server import JobRecord
from elder.infra.ray_jobs.submit import Submission
from elder.pipelines.config.search import TuneConfig, load_tune_config
from elder.pipelines.search.driver import run_tune
from tests.jobs.conftest import Elder
from tests.pipelines.fakes import RecordingTracker, StoreAt, leave_out_plots, make_edits
from tests.pipelines.tune_fakes import EDITS, Inline, TuneKit

ADDRESS = "http://127.0.0.1:1"
SEARCH = """
name: search
data: {source: world:tiny, edits: 8}
stream: {stage_size: 4, batch_size: 2}
editor: {method: elder}
evaluation: {protocols: [generate]}
cluster: {workers: 1, sharding: none}
tracking: {mlflow: null, store: store}
tune:
  space: {editor.lr: {loguniform: [1e-5, 1e-1]}, editor.rank: {choice: [4, 8, 16]}}
  searcher: random
  scheduler: none
  trials: 3
  finalists: 0
  objective: [reliability]
"""


def searched(config: TuneConfig, root: Path) -> tuple[dict[str, Any], int]:
    """A search of made-up edits, and how many runs it began."""
    runner = Inline()
    found = run_tune(config, StoreAt(str(root / "store")), RecordingTracker, edits=lambda run: make_edits(EDITS),
                     kit=TuneKit(), runner=runner)  # fmt: skip
    return found, runner.begun


def test_an_ended_search_goes_on_with_more_trials(
    elder: Elder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_plots(monkeypatch)
    (tmp_path / "search.yaml").write_text(SEARCH)
    first, begun = searched(load_tune_config("search.yaml", ["run_id=s"]), tmp_path)
    assert begun == 3
    ended = JobRecord("s", "SUCCEEDED", exit_code=0, metadata={"elder.run_id": "s", "elder.attempt": "1"})
    server = SimpleNamespace(address=ADDRESS, jobs=lambda: [ended])
    monkeypatch.setattr("elder.jobs.commands.submit.open_server", lambda address: server)
    sent: list[Submission] = []

    def submit(_: object, job: Submission) -> None:
        sent.append(job)
        job.working_dir.rename(tmp_path / f"sent-{len(sent)}")
        job.working_dir.mkdir()

    monkeypatch.setattr("elder.infra.ray_jobs.submit.submit", submit)

    def send(*more: str) -> Any:
        return elder("submit", "tune", "search.yaml", "--address", ADDRESS, *more)

    again = send("tune.trials=5", "--run-id", "s")
    assert (again.code, sent) == (2, [])
    assert (
        "to continue it with more trials (tune.trials): elder submit tune search.yaml tune.trials=5 --resume s"
        in again.err
    )
    fewer = send("tune.trials=2", "--resume", "s")
    assert (fewer.code, sent) == (2, [])
    assert "tune.trials: 3 -> 2 (a search can be given more trials, not fewer)" in fewer.err

    assert send("tune.trials=5", "--resume", "s").code == 0
    (job,) = sent
    assert job.id == "s-r2"
    assert job.metadata["elder.stages"] == "5"
    program, script, *arguments = shlex.split(job.entrypoint)
    assert (program, script, arguments) == ("sh", "run/start.sh", ["tune", "run/config.yaml"])
    there = _as_the_job(elder, tmp_path / "sent-1", arguments, monkeypatch)
    assert (there.tune_id, there.tune.trials) == ("s", 5)
    second, begun = searched(there, tmp_path)
    assert begun == 2
    assert [trial["objective"] for trial in second["trials"][:3]] == [trial["objective"] for trial in first["trials"]]


def _as_the_job(elder: Elder, folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> TuneConfig:
    """The search that `elder` is asked for where the package has been unpacked."""
    seen: list[TuneConfig] = []

    def perform(search: TuneConfig, *_: object) -> Any:
        seen.append(search)
        raise ConfigError("far enough")

    before = os.getcwd()
    monkeypatch.setattr("elder.jobs.commands.tune.perform", perform)
    monkeypatch.chdir(folder)
    found = elder(*arguments)
    monkeypatch.chdir(before)
    assert "far enough" in found.err
    return seen[0]
