"""Submitting, as far as it goes without a cluster: what is refused first, what travels, how a run's state is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError
from elder.infra.ray_jobs.server import JobRecord
from elder.infra.stores.local import LocalStore
from elder.jobs.commands.stop import committed
from elder.jobs.remote.lookup import attempts_of, exit_code_of
from elder.jobs.remote.package import (
    SubmitRequest,
    check_stored,
    entrypoint,
    metadata,
    pack,
    resolve_request,
    secret_names,
    variables,
)
from elder.jobs.remote.run_status import RunStatus, duration, last_lines, quiet_warning, run_status_of, sentence
from elder.pipelines.config.run import load_config, parse_config
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from tests.infra.servers import free_port
from tests.jobs.conftest import ROOT, Elder, records, write_jsonl
from tests.pipelines.fakes import FakeKit, RecordingTracker, StoreAt, make_config, make_edits

BLOCKED = """
import sys, time
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "deepspeed", "mlflow"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
from elder.jobs.main import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "deepspeed", "mlflow", "numpy", "pandas"} & {m.split(".")[0] for m in sys.modules}
print("CODE", code, "HEAVY", sorted(heavy))
"""
VERBS = (("submit", "edit", "demo"), ("jobs",), ("status", "x"), ("logs", "x"), ("stop", "x"))


@pytest.mark.parametrize("verb", VERBS, ids=[verb[0] for verb in VERBS])
def test_client_commands_need_no_torch_and_start_at_once(verb: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, *verb, "--address", f"http://127.0.0.1:{free_port()}"]
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - begin
    assert "CODE 3 HEAVY []" in done.stdout, done.stdout + done.stderr
    assert "no Ray job server answers" in done.stderr
    assert took < 5, "0.3 s alone; more than 5 s even on a busy machine means that something heavy is imported"


def test_sending_needs_no_torch_either() -> None:
    code = (
        BLOCKED.split("from elder.jobs.main")[0]
        + "import elder.infra.ray_jobs.submit, ray.job_submission; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["submit", "edt", "demo"], "'edt' cannot be submitted (known: edit"),
        (["submit", "edit"], "Missing argument 'CONFIG'"),
        (["submit", "evaluate", "adapter"], "Missing argument 'CONFIG'"),
        (["submit", "edit", "demo", "editor.lrr=1"], "did you mean 'lr'"),
        (["submit", "edit", "demo", "data.source=jsonl", "data.path=absent.jsonl"], "absent.jsonl: no such file here"),
        (["submit", "edit", "demo", "--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: is not set here"),
        (["submit", "edit", "demo", "--env", "RAY_ADDRESS=x"], "--env RAY_ADDRESS: is set by the job itself"),
        (["submit", "edit", "demo", "--address", "ray://h:10001"], "expected http://HOST:8265"),
        (["submit", "edit", "demo", "--resume", "a", "--run-id", "b"], "name different runs"),
        (["submit", "evaluate", "a", "demo", "--resume", "a"], "no stages to continue from"),
        (["submit", "edit", "demo", "--working-dir", "absent"], "absent: no such directory"),
        (["submit", "edit", "demo", "tracking.mlflow=http://u:hunter2@h:5000"], "MLFLOW_TRACKING_USERNAME"),
        (["submit", "edit", "demo", "--address", "http://h:8265"], "give s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_wrong_is_found_before_anybody_is_asked(elder: Elder, args: list[str], message: str) -> None:
    found = elder(*args, *([] if "--address" in args else ["--address", f"http://127.0.0.1:{free_port()}"]))
    assert found.code == 2, found.err
    assert message in found.err
    assert "hunter2" not in found.err


def test_wrong_data_is_found_before_anybody_is_asked(elder: Elder, tmp_path: Path) -> None:
    rows = records(3)
    rows[1]["target"] = ""
    write_jsonl(tmp_path / "bad.jsonl", rows)
    given = ("data.source=jsonl", "data.path=bad.jsonl", "data.edits=null")
    found = elder("submit", "edit", "demo", *given, "--address", f"http://127.0.0.1:{free_port()}")
    assert found.code == 2
    assert "bad.jsonl:2" in found.err


def request(*arguments: str, **others: Any) -> SubmitRequest:
    return SubmitRequest(**{"command": "edit", "arguments": arguments, "address": "http://127.0.0.1:1", **others})


def packed(tmp_path: Path, wanted: SubmitRequest) -> tuple[Any, list[str], Path]:
    target = tmp_path / "target"
    target.mkdir(parents=True)
    config, notes = pack(resolve_request(wanted), target)
    return config, notes, target


def test_files_of_the_config_travel_and_are_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    given = ("data.source=jsonl", "data.path=edits.jsonl", "data.edits=null", "evaluation.perplexity_text=text.txt")
    config, notes, target = packed(tmp_path, request("demo", *given, run_id="r"))
    there = parse_config((target / "run/config.yaml").read_text())
    assert there == config
    assert there.run_id == "r"
    assert (target / str(there.data.path)).read_bytes() == edits_file.read_bytes()
    assert (target / str(there.evaluation.perplexity_text)).read_text() == "some text"
    assert there.tracking.store == str(tmp_path / "elder-runs/store")
    assert there.tracking.mlflow == str(tmp_path / "elder-runs/mlflow.db")
    assert any("elder-runs/store is taken as" in note for note in notes)
    assert entrypoint(target) == "sh run/start.sh edit run/config.yaml"


def test_the_users_folder_does_not_shadow_ours_and_its_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "main.py").write_text("wrong")
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text("{}")
    write_jsonl(folder / "edits.jsonl", records(3))
    monkeypatch.chdir(folder)
    given = ("model.source=llama", "data.source=jsonl", "data.path=edits.jsonl", "data.edits=null")
    place = ("tracking.store=s3://b/p", "tracking.mlflow=null", "tracking.register=null")
    wanted = request("demo", *given, *place, working_dir=folder, address="http://head:8265")
    with pytest.raises(ConfigError, match=r"model.source: 'llama'.*--working-dir"):
        packed(
            tmp_path / "mine",
            request(*wanted.arguments, *place, working_dir=folder, address=wanted.address, excluded=("llama",)),
        )
    config, _, target = packed(tmp_path, request(*wanted.arguments, *place, working_dir=folder, address=wanted.address))
    assert config.model.source == "files/llama"
    assert config.data.path == "files/edits.jsonl"
    assert (target / "files/jobs/main.py").read_text() == "wrong"
    assert "def main" in (target / "elder/jobs/main.py").read_text()


def test_a_gguf_file_is_where_nodes_see_it_and_a_short_name_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(folder)
    place = ("tracking.store=s3://b/p", "tracking.mlflow=null", "tracking.register=null")
    far: dict[str, Any] = {"address": "http://head:8265"}
    with pytest.raises(ConfigError, match=r"model.source: 'm.gguf' is a file of this machine"):
        packed(tmp_path / "one", request("demo", "model.source=m.gguf", *place, **far))
    config, _, target = packed(
        tmp_path / "two", request("demo", "model.source=m.gguf", *place, working_dir=folder, **far)
    )
    assert config.model.source == "files/m.gguf"
    assert (target / "files/m.gguf").is_file()
    config, _, _ = packed(tmp_path / "three", request("demo_real", *place, **far))
    assert config.model.source == "smollm2-135m"


def test_places_that_the_nodes_would_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        packed(tmp_path, request("demo", address="http://head:8265"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["tracking.store", "tracking.mlflow"]
    (tmp_path / "target").rmdir()
    places = ("tracking.store=/nfs/store", "tracking.mlflow=http://127.0.0.1:5000", "cluster.address=local")
    config, notes, _ = packed(tmp_path, request("demo", *places, address="http://head:8265"))
    assert config.tracking.store == "/nfs/store"
    assert config.cluster.address == "auto"
    said = "\n".join(notes)
    for words in ("/nfs/store must be one and the same disk", "means the node itself", "local is left out"):
        assert words in said


def test_an_adapter_directory_travels_and_a_ref_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    _, _, target = packed(tmp_path, request("mine", "demo", command="evaluate"))
    assert entrypoint(target) == "sh run/start.sh evaluate run/inputs/adapter run/config.yaml"
    assert (target / "run/inputs/adapter/manifest.json").is_file()
    (tmp_path / "two").mkdir()
    _, _, target = packed(tmp_path / "two", request("models:/m@champion", "demo", command="evaluate"))
    assert entrypoint(target).startswith("sh run/start.sh evaluate models:/m@champion")


def test_variables_are_named_and_never_shown() -> None:
    found = variables(("A", "B=b=b", "C="), {"A": "a", "C": "other", "D": "d"})
    assert found == {"A": "a", "B": "b=b", "C": ""}
    with pytest.raises(ConfigError) as caught:
        variables(("9x=hunter2", "absent", "RAY_ADDRESS=hunter2"), {})
    assert len(caught.value.problems) == 3
    assert "hunter2" not in str(caught.value)
    assert secret_names(["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "ELDER_HOME", "OMP_NUM_THREADS"]) == [
        "AWS_SECRET_ACCESS_KEY", "HF_TOKEN",
    ]  # fmt: skip


def test_metadata_name_the_run_and_hold_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = request("demo", "run_id=old", run_id="r", environment=("AWS_SECRET_ACCESS_KEY=hunter2", "HOME"))
    parcel = resolve_request(wanted)
    (tmp_path / "target").mkdir()
    config, _ = pack(parcel, tmp_path / "target")
    found = metadata(parcel, 1, config)
    assert found["elder.run_id"] == "r"
    assert found["elder.stages"] == "4"
    assert found["elder.config_digest"] == load_config("demo").digest()
    assert all(isinstance(value, str) for value in found.values())
    assert "hunter2" not in json.dumps(found)
    assert "hunter2" not in repr(wanted)
    assert found["elder.resume"] == (
        "elder submit edit demo --resume r --address http://127.0.0.1:1 --env AWS_SECRET_ACCESS_KEY --env HOME"
    )
    for path in (tmp_path / "target").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def job(name: str, status: str = "RUNNING", **others: Any) -> JobRecord:
    return JobRecord(**{"id": name, "status": status, "started": 1000.0, **others})


def test_a_run_is_its_latest_attempt() -> None:
    jobs = [
        job("r-r10", metadata={"elder.run_id": "r", "elder.attempt": "10"}),
        job("r", "FAILED", metadata={"elder.run_id": "r", "elder.attempt": "1"}),
        job("r-r2", "STOPPED", metadata={"elder.run_id": "r", "elder.attempt": "2"}),
        job("raysubmit_x", metadata={}),
    ]
    for name in ("r", "r-r2"):
        found = attempts_of(jobs, name)
        assert found is not None
        assert [one.id for one in found.jobs] == ["r", "r-r2", "r-r10"]
        assert found.next_id == "r-r11"
    other = attempts_of(jobs, "raysubmit_x")
    assert other is not None
    assert other.run_id == "raysubmit_x"
    assert attempts_of(jobs, "s") is None


def test_exit_codes_of_jobs() -> None:
    assert exit_code_of(job("a", "SUCCEEDED", exit_code=0)) == 0
    assert [exit_code_of(job("a", "FAILED", exit_code=code)) for code in (1, 2, 3, 4, 5, 130, -9, None)] == [
        1, 2, 3, 4, 5, 1, 1, 1,
    ]  # fmt: skip
    assert exit_code_of(job("a", "FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE")) == 3
    assert exit_code_of(job("a", "STOPPED")) == 1


def test_the_sentence_of_a_run() -> None:
    stand = RunStatus(True, stages=3, of=10, edits=150, committed_at=880.0)
    assert sentence(job("a"), stand, 1000.0) == "running, stage 3 of 10 committed 2 min ago"
    assert sentence(job("a"), RunStatus(True), 1000.0) == "running, no stage committed yet"
    assert sentence(job("a"), RunStatus(why="away"), 1000.0) == "running"
    ended = job("a", "FAILED", exit_code=4, ended=940.0)
    assert sentence(ended, stand, 1000.0) == "failed (exit code 4) 60 s ago, stage 3 of 10 committed 2 min ago"
    assert sentence(job("a"), RunStatus(True, trials=7, of=20), 1000.0) == "running, 7 of 20 trials done"
    assert committed(stand) == "stage 3 of 10 is committed (150 edits; stages/000002)"
    assert [duration(s) for s in (-3, 99, 120, 7200, 400000)] == ["0 s", "99 s", "2 min", "2 h 0 min", "4 d 15 h"]
    assert last_lines("a\n\n b \nc\n", 2) == [" b", "c"]


def test_a_run_that_commits_nothing_is_pointed_out() -> None:
    stand = RunStatus(True, stages=3, committed_at=1.0)
    assert quiet_warning(job("a", started=2000.0), stand, 2100.0) is None, "it has just been started again"
    warned = quiet_warning(job("a", started=2000.0), stand, 5000.0)
    assert warned is not None
    assert "no commit for 50 min" in warned
    assert quiet_warning(job("a", "FAILED", started=0.0), stand, 5000.0) is None


def finished_run(root: Path) -> None:
    """A run `r1` of eight edits in two stages."""
    run_edit(make_config(run_id="r1"), StoreAt(str(root)), RecordingTracker(), edits=make_edits(8), kit=FakeKit())


def test_standing_is_read_from_the_store_and_says_when_it_cannot(tmp_path: Path) -> None:
    finished_run(tmp_path / "store")
    facts = {"elder.command": "edit", "elder.store": str(tmp_path / "store"), "elder.stage_size": "4"}
    found = run_status_of(facts, "r1")
    assert (found.readable, found.stages, found.of, found.edits) == (True, 2, 2, 8)
    assert found.committed_at is not None
    assert abs(found.committed_at - time.time()) < 300
    assert run_status_of(facts, "r2").stages == 0
    away = run_status_of({**facts, "elder.store": str(tmp_path / "elsewhere")}, "r1")
    assert (away.readable, "is not on this machine" in away.why) == (False, True)
    assert not run_status_of({**facts, "elder.command": "evaluate"}, "r1").readable


def test_commits_of_before_there_was_a_time_are_read(tmp_path: Path) -> None:
    finished_run(tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    before = RunState(store, "r1").commits()
    for commit in before:
        key = f"runs/r1/stages/{commit.stage:06d}/COMMIT.json"
        record = json.loads(store.get(key))
        assert record.pop("committed_at").endswith("+00:00")
        store.put(key, json.dumps(record).encode())
    after = RunState(store, "r1").commits()
    assert [commit.committed_at for commit in after] == ["", ""]
    assert after == before
    count, last = RunState(store, "r1").last_commit()
    assert (count, last) == (2, before[-1])


SEARCH = """
name: search
data: {source: world:tiny, edits: 8}
editor: {method: elder}
evaluation: {protocols: [forced]}
cluster: {workers: 1, sharding: none}
tracking: {mlflow: null, store: store}
tune:
  space: {editor.lr: {loguniform: [1e-4, 1e-2]}}
  trials: 5
  objective: [reliability]
"""


def test_a_search_travels_whole_and_its_trials_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elder.pipelines.config.search import parse_tune_config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text(SEARCH)
    wanted = request("search.yaml", command="tune", run_id="s")
    config, _, target = packed(tmp_path, wanted)
    there = parse_tune_config((target / "run/config.yaml").read_text())
    assert (there.tune_id, there.tune.trials, there.run.tracking.store) == ("s", 5, str(tmp_path / "store"))
    parcel = resolve_request(wanted)
    facts = metadata(parcel, 1, config)
    assert run_status_of(facts, "s").why == f"{tmp_path / 'store'} is not on this machine"
    store = LocalStore(tmp_path / "store")
    for name in ("results/0000.json", "results/0001.json", "results/f01-s1.json", "trials/0002.json"):
        store.put(f"tunes/s/{name}", b"{}")
    assert run_status_of(facts, "s").words(0.0) == "2 of 5 trials done"
    store.put("tunes/s/config.yaml", (target / "run/config.yaml").read_bytes())
    check_stored(parcel, config)
    check_stored(resolve_request(replace(wanted, arguments=("search.yaml", "tune.trials=6"))), config)
    with pytest.raises(ConfigError, match=r"tune\.trials: 5 -> 4"):
        check_stored(resolve_request(replace(wanted, arguments=("search.yaml", "tune.trials=4"))), config)


SLEEPS = """
import sys, time, elder.jobs.main, elder.pipelines.config.run
def slow(*args):
    print("ready", flush=True)
    time.sleep(60)
elder.pipelines.config.run.load_config = slow
sys.exit(elder.jobs.main.main(["plan", "demo"]))
"""


@pytest.mark.parametrize("in_a_job", [True, False])
def test_sigterm_ends_a_job_and_a_plain_verb_as_ctrl_c_does(in_a_job: bool) -> None:
    environment = {**os.environ, **({"ELDER_SUBMISSION_ID": "x"} if in_a_job else {})}
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPS], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"interrupted by SIGTERM" in said
    assert b"Traceback" not in said


def test_rays_own_answer_to_sigterm_closes_the_record_too(tmp_path: Path, elder: Elder, monkeypatch: Any) -> None:
    def leave(*args: object) -> None:
        raise SystemExit(15)

    tracker = RecordingTracker()
    with pytest.raises(SystemExit):
        run_edit(make_config(), StoreAt(str(tmp_path)), tracker, edits=make_edits(4), kit=FakeKit(), runner=leave)
    assert tracker.statuses == ["KILLED"]
    monkeypatch.setattr("elder.pipelines.config.run.load_config", leave)
    assert elder("plan", "demo").code == 143
