"""Submitting comparisons and studies, as far as it goes without a cluster: what travels, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError
from elder.infra.stores.local import LocalStore
from elder.jobs.commands.stop import committed
from elder.jobs.remote.package import SubmitRequest, check_stored, entrypoint, metadata, pack, resolve_request
from elder.jobs.remote.run_status import RunStatus, quiet_warning, run_status_of
from elder.pipelines.config.comparison import CompareConfig, parse_compare_config
from elder.pipelines.config.study import parse_study_config
from tests.infra.servers import free_port
from tests.jobs.commands.test_submit import BLOCKED, job
from tests.jobs.conftest import ROOT, Elder, records, write_jsonl

COMMON = """
name: several
data: {source: jsonl, path: edits.jsonl}
stream: {stage_size: 2, batch_size: 2}
cluster: {workers: 1, sharding: none, address: local}
tracking: {mlflow: null, store: store}
"""
COMPARE = (
    COMMON
    + """
compare:
  methods:
    memit: {text: a/text.txt}
    rome: {text: b/text.txt}
    emmet: {text: a/text.txt}
    mend: {trained: net-a}
    malmen: {trained: net-b}
    elder: {}
"""
)
STUDY = (
    COMMON
    + """
study:
  methods: {memit: {text: a/text.txt}, elder: {}}
  parts: {p: {values: [1, 2], strategies: [batch], edits: 2}}
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user stands: configs, edits, two texts of one name, two trained editors."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "edits.jsonl", records(4))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(f"text {name}")
        (tmp_path / f"net-{name}").mkdir()
        (tmp_path / f"net-{name}" / "manifest.json").write_text(name)
    (tmp_path / "compare.yaml").write_text(COMPARE)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def request(command: str, *arguments: str, **others: Any) -> SubmitRequest:
    given = {"command": command, "arguments": arguments, "address": "http://127.0.0.1:1", "run_id": "w", **others}
    return SubmitRequest(**given)


def packed(folder: Path, wanted: SubmitRequest, name: str = "target") -> tuple[Any, Path]:
    target = folder / name
    target.mkdir()
    return pack(resolve_request(wanted), target)[0], target


def test_what_each_method_names_travels_and_is_found_there(folder: Path) -> None:
    _, target = packed(folder, request("compare", "compare.yaml"))
    there = parse_compare_config((target / "run/config.yaml").read_text())
    assert (there.compare_id, there.run.cluster.address) == ("w", "auto")
    options = {member.name: member.config.editor.options for member in there.members}
    texts = {name: (target / options[name]["text"]).read_text() for name in ("memit", "rome", "emmet")}
    assert texts == {"memit": "text a", "rome": "text b", "emmet": "text a"}
    assert len(list((target / "run/inputs").rglob("text.txt"))) == 2, "a text that two methods name travels once"
    nets = {name: (target / options[name]["trained"] / "manifest.json").read_text() for name in ("mend", "malmen")}
    assert nets == {"mend": "a", "malmen": "b"}
    assert (target / str(there.run.data.path)).is_file()
    assert entrypoint(target) == "sh run/start.sh compare run/config.yaml"
    assert all(member.config.data.path == there.run.data.path for member in there.members)


def test_files_inside_the_users_folder_are_not_copied_twice(folder: Path) -> None:
    _, target = packed(folder, request("compare", "compare.yaml", working_dir=folder, excluded=("target",)))
    there = parse_compare_config((target / "run/config.yaml").read_text())
    options = {member.name: member.config.editor.options for member in there.members}
    assert (options["rome"]["text"], options["mend"]["trained"]) == ("files/b/text.txt", "files/net-a")
    assert not (target / "run/inputs").exists()


def test_a_study_travels_whole(folder: Path) -> None:
    _, target = packed(folder, request("study", "study.yaml"))
    there = parse_study_config((target / "run/config.yaml").read_text())
    assert [member.name for member in there.members] == [
        "p-memit-batch-b0001", "p-memit-batch-b0002", "p-elder-batch-b0001", "p-elder-batch-b0002",
    ]  # fmt: skip
    for member in there.members[:2]:
        assert (target / member.config.editor.options["text"]).read_text() == "text a"


@pytest.mark.parametrize(("verb", "key"), [("compare", "compare.methods.memit"), ("study", "study.methods.memit")])
def test_a_file_that_is_not_there_is_named_by_its_key(folder: Path, verb: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\.text: gone\.txt: no such file here; it travels with the job"):
        packed(folder, request(verb, f"{verb}.yaml", f"{key}.text=gone.txt"))


def test_methods_and_strategy_travel_and_stand_in_the_command_that_goes_on(folder: Path) -> None:
    wanted = request("compare", "compare.yaml", "run_id=old", methods="rome,elder", strategy="single")
    whole, target = packed(folder, wanted)
    assert isinstance(whole, CompareConfig)
    there = parse_compare_config((target / "run/config.yaml").read_text())
    assert [member.name for member in there.members] == ["rome", "elder"]
    assert {member.config.stream.strategy for member in there.members} == {"isolated"}
    facts = metadata(resolve_request(wanted), 1, whole)
    assert facts["elder.resume"] == (
        "elder submit compare compare.yaml --methods rome,elder --strategy single --resume w --address http://127.0.0.1:1"
    )
    assert (facts["elder.command"], facts["elder.stages"], facts["elder.store"]) == (
        "compare", "2", str(folder / "store"),
    )  # fmt: skip
    # An ordinary config becomes a comparison by --methods, here as with `elder compare`.
    _, plain = packed(folder, request("compare", "demo", methods="elder,memit"), "plain")
    assert len(parse_compare_config((plain / "run/config.yaml").read_text()).members) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("compare", "demo"), "demo: describes no comparison (name the methods with --methods)"),
        (("compare", "compare.yaml", "--methods", "rme"), "did you mean 'rome'"),
        (("compare", "study.yaml"), "study.yaml: describes no comparison"),
        (("study", "compare.yaml"), "compare.yaml: describes no study"),
        (("edit", "compare.yaml"), "run it with `elder compare`"),
        (("edit", "demo", "--methods", "elder"), "--methods and --strategy are for compare"),
        (("study", "study.yaml", "--strategy", "batch"), "--methods and --strategy are for compare"),
        (("compare", "compare.yaml", "data.path=gone.jsonl"), "data.path: gone.jsonl: no such file here"),
    ],
)
def test_what_is_wrong_is_found_before_anybody_is_asked(
    elder: Elder, folder: Path, args: tuple[str, ...], message: str
) -> None:
    found = elder("submit", *args, "--address", f"http://127.0.0.1:{free_port()}")
    assert found.code == 2, found.err
    assert message in found.err


@pytest.mark.parametrize("verb", ["compare", "study"])
def test_no_torch_is_needed_here(folder: Path, verb: str) -> None:
    command = [sys.executable, "-c", BLOCKED, "submit", verb, f"{verb}.yaml"]
    command += ["--address", f"http://127.0.0.1:{free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "CODE 3 HEAVY []" in done.stdout, done.stdout + done.stderr


def test_how_it_stands_is_read_from_the_runs_that_it_names(folder: Path) -> None:
    wanted = request("compare", "compare.yaml", methods="rome,elder")
    whole, target = packed(folder, wanted)
    facts = metadata(resolve_request(wanted), 1, whole)
    assert run_status_of(facts, "w").why == f"{folder / 'store'} is not on this machine"
    store = LocalStore(folder / "store")
    store.put("runs/other/config.yaml", b"")
    assert run_status_of(facts, "w").words(0.0) == "0 of 2 runs done, 0 stages committed"
    store.put("compares/w/config.yaml", (target / "run/config.yaml").read_bytes())
    for name in ("w-rome/result.json", "w-rome/stages/000000/COMMIT.json", "w-rome/report/result.json",
                 "w-elder/stages/000000/COMMIT.json", "w-elder/stages/000001/a/metrics.json",
                 "w-2-elder/result.json", "w-2-elder/stages/000000/COMMIT.json"):  # fmt: skip
        store.put(f"runs/{name}", b"{}")
    found = run_status_of(facts, "w")
    assert found.words(0.0) == "1 of 2 runs done, 2 stages committed"
    assert committed(found) == "what is committed is kept: 1 of 2 runs done, 2 stages committed"
    assert committed(RunStatus(True, trials=7, of=20)) == "what is committed is kept: 7 of 20 trials done"
    assert quiet_warning(job("w", started=0.0), found, 9999.0) is None


def test_runs_that_are_stored_with_another_config_are_refused(folder: Path) -> None:
    wanted = request("compare", "compare.yaml", methods="mend,elder")
    whole, _ = packed(folder, wanted)
    store = LocalStore(folder / "store")
    for member in whole.read_back().members:
        store.put(f"runs/{member.config.run_id}/config.yaml", member.config.dump_yaml().encode())
    check_stored(resolve_request(wanted), whole)
    other = replace(wanted, arguments=("compare.yaml", "compare.methods.elder.rank=3", "stream.batch_size=1"))
    changed, _ = packed(folder, other, "other")
    with pytest.raises(ConfigError) as caught:
        check_stored(resolve_request(other), changed)
    text = str(caught.value)
    for words in (
        "run 'w-mend' exists with another config",
        "run 'w-elder'",
        "editor.rank: ",
        "stream.batch_size: 2 -> 1",
    ):
        assert words in text
