"""Runs as Ray jobs on a real head with dashboard, job server and token, through the command line as users call it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from elder.infra.ray_jobs.server import JobServer
from elder.infra.ray_jobs.token import Token
from elder.infra.stores.local import LocalStore
from elder.pipelines.run.commits import RunState
from tests.cluster.job_head import ROOT, JobHead
from tests.infra.servers import free_port
from tests.jobs.conftest import build_model, records, write_jsonl

SECRET = "s3cr3t-0451-never-shown"
PATIENCE_S = 150.0
LONG = 24  # edits of a run that is still at work some seconds after its first commit


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture
def config(tmp_path: Path, model: Path, empty_database: Path) -> Path:
    """Eight edits in four stages on one worker; the file of edits lies beside the config."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs/mlflow.db")
    write_jsonl(tmp_path / "edits.jsonl", records(8))
    text = f"""
name: sub
model: {{source: {model}}}
data: {{source: jsonl, path: edits.jsonl}}
stream: {{stage_size: 2, batch_size: 2}}
editor: {{method: elder, steps: 2, layers: [2, 3], rank: 2}}
evaluation: {{max_new_tokens: 3, probes: 0, protocols: [forced]}}
cluster: {{workers: 1, sharding: none, threads_per_worker: 1}}
tracking: {{mlflow: runs/mlflow.db, store: runs/store}}
"""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def elder(head: JobHead, cwd: Path, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call `elder ARGS... --address HEAD` as a process of its own."""
    return subprocess.run(
        command(head.address, *args), cwd=cwd, env=client_environment(head, cwd, **environment), text=True,
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def elder_here(head: JobHead, cwd: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Call `elder ARGS...` as a process of its own that needs no cluster."""
    return subprocess.run(
        [sys.executable, "-m", "elder.jobs.main", *map(str, args)], cwd=cwd, text=True, capture_output=True,
        env=client_environment(head, cwd, OMP_NUM_THREADS="1"), timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def command(address: str, *args: object) -> list[str]:
    return [sys.executable, "-m", "elder.jobs.main", *map(str, args), "--address", address]


def client_environment(head: JobHead, cwd: Path, **environment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    home = {"HOME": str(cwd), "PYTHONPATH": str(ROOT)}  # no token of the user who runs the tests
    return {**kept, **home, "RAY_AUTH_TOKEN": head.token, **environment}


def commits(cwd: Path, run: str) -> list[str]:
    return [commit.state_digest for commit in RunState(LocalStore(cwd / "runs/store"), run).commits()]


def wait_for_commit(head: JobHead, cwd: Path, run: str) -> None:
    """Until the first stage of a run is committed; at once when its job has ended instead."""
    server, end = JobServer(head.address, Token(head.token, "test")), time.monotonic() + PATIENCE_S
    while not (LocalStore(cwd / "runs/store").list(f"runs/{run}/stages/") and commits(cwd, run)):
        job = server.job(run)  # None until the submitting process has come so far
        assert job is None or not job.over, server.logs(run)[-3000:]
        assert time.monotonic() < end, f"no commit of {run}: {server.logs(run)[-3000:]}"
        time.sleep(0.1)


@pytest.mark.cluster
def test_a_followed_run_and_what_stays_of_it(head: JobHead, config: Path, tmp_path: Path) -> None:
    arguments = ("submit", "edit", "run.yaml", "--run-id", "whole", "--env", "API_TOKEN", "--env", "PLAIN=yes")
    # A package of the same name and a broken config beside it must not get in the way of ours.
    folder = tmp_path / "mine"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "__init__.py").write_text("raise RuntimeError('the wrong jobs')")
    done = elder(
        head, tmp_path, *arguments, "--working-dir", folder, "--follow", "--json", "out.json", API_TOKEN=SECRET
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("submitted whole\n")
    assert "stage 3: committed, 8 edits" in done.stdout
    assert re.search(r"^whole: done .*, stage 4 of 4 committed \d+ s ago$", done.stdout, re.MULTILINE)
    assert json.loads((tmp_path / "out.json").read_text())["exit_code"] == 0
    assert "elder submit edit run.yaml --resume whole" in done.stdout, "the job itself says how to go on with it"
    assert len(commits(tmp_path, "whole")) == 4

    again = elder(head, tmp_path, *arguments, API_TOKEN=SECRET)
    assert again.returncode == 2
    assert "has been submitted" in again.stderr
    assert "stage 4 of 4 committed" in again.stderr

    listed = elder(head, tmp_path, "jobs")
    assert re.search(r"^whole +edit +SUCCEEDED .* stage 4 of 4", listed.stdout, re.MULTILINE), listed.stdout
    stopped = elder(head, tmp_path, "stop", "whole")
    assert (stopped.returncode, "had ended before: done" in stopped.stdout) == (0, True)
    log = elder(head, tmp_path, "logs", "whole").stdout

    shown = metadata(head, "whole")
    assert shown["elder.run_id"] == "whole"
    assert shown["elder.store"] == str(tmp_path / "runs/store")
    told = [done.stdout, done.stderr, again.stderr, listed.stdout, log, json.dumps(shown)]
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert len(kept) > 20
    for text in told:
        assert SECRET not in text
    for path in kept:
        assert SECRET.encode() not in path.read_bytes(), path

    from elder.infra.tracking.tracker import show

    assert show(str(tmp_path / "runs/mlflow.db"), "whole")["tags"]["ray.submission_id"] == "whole"


def metadata(head: JobHead, job: str) -> dict[str, str]:
    request = urllib.request.Request(
        f"{head.address}/api/jobs/{job}", headers={"Authorization": f"Bearer {head.token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found = json.loads(answer.read())
    assert found["runtime_env"]["env_vars"]["API_TOKEN"] == SECRET, "the job must have its variables"
    return dict(found["metadata"])


@pytest.mark.nodes
def test_a_full_cluster_ends_the_job_with_exit_code_3(head: JobHead, config: Path, tmp_path: Path) -> None:
    few = ("cluster.workers=3", "cluster.wait_for_resources_s=2", "tracking.mlflow=null")
    done = elder(head, tmp_path, "submit", "edit", "run.yaml", *few, "--run-id", "full", "--follow")
    assert done.returncode == 3, done.stdout + done.stderr
    said = done.stdout.replace("\n", " ")
    for words in (
        "the run needs 3 workers of 1 CPU (3 CPU in all)",
        "the cluster has 2 CPU",
        "cluster.wait_for_resources_s",
    ):
        assert words in said, done.stdout
    status = elder(head, tmp_path, "status", "full")
    assert "failed (exit code 3)" in status.stdout
    assert "the end of its log" in status.stdout


@pytest.mark.cluster
def test_tokens_that_are_missing_or_wrong(head: JobHead, config: Path, tmp_path: Path) -> None:
    for name, token, words in (
        ("none", "", "asks for a token and none was found here"),
        ("wrong", "0" * 64, "refuses the token from RAY_AUTH_TOKEN"),
    ):
        for verb in (("submit", "edit", "run.yaml", "--run-id", f"never-{name}"), ("jobs",), ("status", "x")):
            done = elder(head, tmp_path, *verb, RAY_AUTH_TOKEN=token)
            assert done.returncode == 3, done.stderr
            assert words in done.stderr
            assert "export RAY_AUTH_TOKEN=TOKEN" in done.stderr
            assert "Traceback" not in done.stderr
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(head.token + "\n")
    found = elder(head, tmp_path, "jobs", RAY_AUTH_TOKEN="")
    assert found.returncode == 0, found.stderr
    assert "never-" not in found.stdout


@pytest.mark.cluster
def test_a_run_that_is_too_large_never_leaves(head: JobHead, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "big.bin").write_bytes(b"0" * 3_000_000)
    arguments = ("submit", "edit", "run.yaml", "--run-id", "large", "--working-dir", folder, "--max-upload-mb", "2")
    done = elder(head, tmp_path, *arguments)
    assert done.returncode == 2
    assert "weights/big.bin" in done.stderr
    assert "--exclude" in done.stderr
    assert elder(head, tmp_path, "status", "large").returncode == 2, "the cluster knows nothing of it"


@pytest.mark.nodes
def test_stop_in_the_middle_and_resume(head: JobHead, config: Path, tmp_path: Path) -> None:
    slow = ("editor.steps=150",)
    truth = tmp_path / "truth"
    truth.mkdir()
    for folder in (truth, tmp_path):
        write_jsonl(folder / "edits.jsonl", records(LONG))
    alone = ("edit", "../run.yaml", *slow, "run_id=r", "tracking.mlflow=null", "cluster.workers=0")
    done = elder_here(head, truth, *alone)
    assert done.returncode == 0, done.stderr
    undisturbed = commits(truth, "r")

    arguments = ("submit", "edit", "run.yaml", "editor.steps=150")
    assert elder(head, tmp_path, *arguments, "--run-id", "r").returncode == 0
    early = elder(head, tmp_path, *arguments, "--resume", "r")
    assert early.returncode == 2
    assert "follow it with" in early.stderr
    wait_for_commit(head, tmp_path, "r")
    begun = time.monotonic()
    stopped = elder(head, tmp_path, "stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    assert re.search(r"stage \d+ of 12 is committed", stopped.stdout), stopped.stdout
    assert "--resume r" in stopped.stdout
    assert time.monotonic() - begun < 60
    stood = commits(tmp_path, "r")
    assert 1 <= len(stood) < 12
    assert stood == undisturbed[: len(stood)]

    from elder.infra.tracking.tracker import show

    assert show(str(tmp_path / "runs/mlflow.db"), "r")["status"] == "KILLED"

    other = elder(head, tmp_path, "submit", "edit", "run.yaml", "editor.steps=151", "--resume", "r")
    assert other.returncode == 2
    assert "editor.steps: 150 -> 151" in other.stderr
    resumed = elder(head, tmp_path, *arguments, "--resume", "r", "--follow")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert resumed.stdout.startswith("submitted r-r2 (attempt 2 of run r)\n")
    assert commits(tmp_path, "r") == undisturbed
    shown = show(str(tmp_path / "runs/mlflow.db"), "r")
    assert shown["status"] == "FINISHED"
    assert shown["tags"]["ray.submission_id"] == "r-r2"
    assert "r-r2: done" in elder(head, tmp_path, "status", "r").stdout


@pytest.mark.nodes
def test_following_ends_without_the_job(head: JobHead, config: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", records(LONG))
    with subprocess.Popen(
        command(head.address, "submit", "edit", "run.yaml", "editor.steps=150", "--run-id", "left", "--follow"),
        cwd=tmp_path, env=client_environment(head, tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as follower:  # fmt: skip
        wait_for_commit(head, tmp_path, "left")
        status = elder(head, tmp_path, "status", "left").stdout
        assert re.search(r"left: running, stage \d+ of 12 committed \d+ s ago", status), status
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "left continues without you" in said
    assert elder(head, tmp_path, "logs", "-f", "left").returncode == 0
    assert len(commits(tmp_path, "left")) == 12


@pytest.mark.nodes
def test_a_job_that_cannot_start_says_what_it_waits_for(head: JobHead, config: Path, tmp_path: Path) -> None:
    sent = elder(head, tmp_path, "submit", "edit", "run.yaml", "--run-id", "waits", "--driver-cpus", "9")
    assert sent.returncode == 0, sent.stderr
    status = elder(head, tmp_path, "status", "waits").stdout
    assert "waits: waiting to start" in status
    assert "waiting for resources" in status
    assert "2 of 2 CPU" in status
    stopped = elder(head, tmp_path, "stop", "waits")
    assert stopped.returncode == 0
    assert "stopped before it began, nothing was committed" in stopped.stdout


@pytest.mark.cluster
def test_nobody_there(tmp_path: Path, config: Path) -> None:
    gone = JobHead(f"http://127.0.0.1:{free_port()}", "x", tmp_path)
    for verb in (("submit", "edit", "run.yaml"), ("jobs",), ("stop", "x"), ("logs", "-f", "x")):
        done = elder(gone, tmp_path, *verb)
        assert done.returncode == 3
        assert "no Ray job server answers" in done.stderr
