"""Everything outside on one machine: a submitted run and a search that keep all they have in an S3 server with real
signatures, which goes away in the middle and comes back; and what a wrong key leads to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings
from elder.pipelines.run.commits import RunState
from tests.cluster.job_head import ROOT, JobHead, job_head
from tests.infra.servers import mlflow_server
from tests.infra.swift import SwiftServer, swift
from tests.jobs.conftest import build_model, records, write_jsonl

pytestmark = pytest.mark.nodes
AWAY_S = 12.0
PATIENCE_S = 280.0
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED")
EDITS = 8

RUN = """
name: outside
model: {{source: {model}}}
data: {{source: jsonl, path: edits.jsonl}}
stream: {{stage_size: 2, batch_size: 2}}
editor: {{method: elder, steps: 40, layers: [2, 3], rank: 2}}
evaluation: {{max_new_tokens: 3, probes: 0, protocols: [forced]}}
cluster: {{workers: 1, sharding: none}}
tracking:
  mlflow: {mlflow}
  store: s3://{bucket}/elder
  register: outside
  s3: {{endpoint_url: "{endpoint}", addressing: path}}
"""
SEARCH = """
tune:
  space: {{editor.lr: {{loguniform: [1.0e-4, 1.0e-2]}}}}
  searcher: random
  scheduler: none
  trials: 2
  finalists: 0
"""


@dataclass(frozen=True)
class Outside:
    """The servers, and a directory with a config that uses them."""

    head: JobHead
    s3: SwiftServer
    mlflow: str
    bucket: str
    directory: Path

    def environment(self, keys: bool = True, **others: str) -> dict[str, str]:
        """Of a client; without `keys` it knows the servers and has no key of the store."""
        foreign = ("RAY_", "MLFLOW_", "AWS_", "ELDER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {"HOME": str(self.directory), "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": self.head.token}
        return {**kept, **own, **(self.s3.access if keys else {}), **others}

    def start(self, *arguments: object, keys: bool = True, **others: str) -> subprocess.Popen[str]:
        """Start `elder ARGS...`; what it says is collected in one text."""
        command = [sys.executable, "-m", "elder.jobs.main", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.directory, env=self.environment(keys, **others), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def elder(self, *arguments: object, keys: bool = True, **others: str) -> tuple[int, str]:
        """Call `elder ARGS...`; its exit code and what it said."""
        process = self.start(*arguments, keys=keys, **others)
        said, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said

    def submit(self, command: str, config: str, run: str) -> subprocess.Popen[str]:
        """Start `elder submit ... --follow`; the job is given the keys by name."""
        names = [part for name in KEYS for part in ("--env", name)]
        return self.start(
            "submit", command, config, "--run-id", run, "--address", self.head.address, "--follow", *names
        )

    @property
    def store(self) -> S3Store:
        """The run's store, as this process sees it (the environment has its keys)."""
        return S3Store(f"s3://{self.bucket}/elder", S3Settings(endpoint_url=self.s3.endpoint, addressing="path"))

    def everything(self) -> dict[str, bytes]:
        """All objects of the bucket."""
        client = self.s3.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Outside]:
    directory = tmp_path_factory.mktemp("outside")
    model = build_model(directory / "llama", "llama")
    write_jsonl(directory / "edits.jsonl", records(EDITS))
    with swift(directory / "swift") as server, job_head(cpus=3) as head:
        bucket = server.make_bucket()
        keys = {**server.access, "MLFLOW_S3_ENDPOINT_URL": server.endpoint}
        shutil.copy(empty_database, directory / "mlflow.db")
        with mlflow_server(directory / "mlflow.db", f"s3://{bucket}/mlflow", keys) as url:
            run = RUN.format(model=model, mlflow=url, bucket=bucket, endpoint=server.endpoint)
            (directory / "run.yaml").write_text(run)
            (directory / "tune.yaml").write_text(run + SEARCH.format())
            yield Outside(head, server, url, bucket, directory)


@pytest.fixture(autouse=True)
def keys_of_this_process(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in outside.s3.access.items():
        monkeypatch.setenv(name, value)
    outside.s3.start()


def commits(outside: Outside, run: str) -> list[str]:
    return [commit.state_digest for commit in RunState(outside.store, run).commits()]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def test_a_submitted_run_loses_nothing_when_its_store_goes_and_comes(outside: Outside, tmp_path: Path) -> None:
    stormy = outside.submit("edit", "run.yaml", "stormy")
    wait_until(lambda: len(outside.store.list("runs/stormy/stages/000000/COMMIT")) == 1, stormy)
    outside.s3.restart(AWAY_S)  # stage 1 is in work
    standing = len(commits(outside, "stormy"))
    code, said = ended(stormy)
    assert code == 0, said
    assert standing < EDITS // 2, "the store must have been away before the end"
    assert "does not answer" in said, "the wait is said"

    code, text = outside.elder("edit", "run.yaml", "cluster.workers=0", "--run-id", "calm")
    assert code == 0, text
    assert len(commits(outside, "calm")) == EDITS // 2
    assert commits(outside, "stormy") == commits(outside, "calm")
    marks = [key for key in outside.store.list("runs/stormy/stages/") if key.endswith("COMMIT.json")]
    assert marks == [f"runs/stormy/stages/{stage:06d}/COMMIT.json" for stage in range(EDITS // 2)]

    pulled = tmp_path / "adapter"
    code, text = outside.elder("pull", "stormy", pulled, "--mlflow", outside.mlflow, keys=False)
    assert code == 0, text
    assert "files verified" in text
    code, text = outside.elder("pull", "models:/outside/1", tmp_path / "first", "--mlflow", outside.mlflow, keys=False)
    assert code == 0, text
    files = outside.everything()
    kept = [content for key, content in files.items() if key.startswith("mlflow/")]
    assert (pulled / "adapter.safetensors").read_bytes() in kept, "MLflow's artifacts are in the bucket as well"
    secret = outside.s3.site.secret_key
    assert secret not in said
    assert [key for key, content in files.items() if secret.encode() in content] == []
    assert secret.encode() not in (outside.directory / "mlflow.db").read_bytes()


def test_a_submitted_search_loses_nothing_when_its_store_goes_and_comes(outside: Outside) -> None:
    search = outside.submit("tune", "tune.yaml", "hunt")
    wait_until(lambda: any("/COMMIT.json" in key for key in outside.store.list("runs/hunt-t")), search)
    outside.s3.restart(AWAY_S)
    code, said = ended(search)
    assert code == 0, said
    assert sorted(outside.store.list("tunes/hunt/results/")) == [f"tunes/hunt/results/{n:04d}.json" for n in range(2)]
    assert outside.store.exists("tunes/hunt/result.json")
    assert outside.store.exists("tunes/hunt/best.yaml")
    for trial in range(2):
        assert len(commits(outside, f"hunt-t{trial:04d}")) == EDITS // 2
    secret = outside.s3.site.secret_key
    assert secret not in said
    assert [key for key, content in outside.everything().items() if secret.encode() in content] == []


@pytest.mark.parametrize("where", ["here", "submitted"])
def test_a_wrong_key_is_exit_3_and_one_clear_sentence(outside: Outside, where: str) -> None:
    if where == "here":
        arguments: tuple[object, ...] = ("edit", "run.yaml", "cluster.workers=0", "--run-id", "wrong-here")
    else:
        names = [part for name in KEYS for part in ("--env", name)]
        arguments = ("submit", "edit", "run.yaml", "--run-id", "wrong", "--address", outside.head.address, "--follow")
        arguments += tuple(names)
    code, said = outside.elder(*arguments, AWS_SECRET_ACCESS_KEY="not-the-secret")
    assert code == 3, said
    assert "SignatureDoesNotMatch" in said
    assert "Check the access key, its secret" in said
    assert "Traceback" not in said
    assert outside.store.list("runs/wrong") == []
