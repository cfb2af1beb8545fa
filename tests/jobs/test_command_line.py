"""The command line through the command line: help, exit codes, and the verbs that start nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from elder.jobs.main import SILENT, exit_code
from elder.jobs.shared.verbs import GROUPS, VERBS
from elder.pipelines.config.files import packaged_configs
from tests.jobs.conftest import ROOT, Elder, elder_process


def test_help_lists_every_verb_and_every_verb_has_help(elder: Elder) -> None:
    top = elder("--help")
    assert top.code == 0
    for purpose in GROUPS:
        assert f"\n{purpose}:\n" in top.out
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", top.out, re.MULTILINE), verb
        own = elder(verb, "--help")
        assert own.code == 0
        assert f"Usage: elder {verb}" in own.out
        assert len(own.out.splitlines()) > 4


def test_mlflow_is_kept_quiet_unless_the_user_says_otherwise(elder: Elder, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, free = SILENT
    monkeypatch.setenv(chosen, "mine")
    monkeypatch.setenv(free, "")  # so that what the command line sets is taken back
    monkeypatch.delenv(free)
    assert elder("ls", "methods").code == 0
    assert (os.environ[chosen], os.environ[free]) == ("mine", SILENT[free])


def test_a_process_of_its_own_has_the_same_exit_codes(tmp_path: Path) -> None:
    assert elder_process("--help", cwd=tmp_path).returncode == 0
    wrong = elder_process("plan", "nowhere.yaml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "no such config file" in wrong.stderr
    assert wrong.stdout == ""


def test_a_config_is_looked_for_among_those_beside_it(elder: Elder, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("name: mine\n")
    (tmp_path / "folder").mkdir()
    wrong = elder("validate", "my.yml")
    assert wrong.code == 2
    assert "did you mean 'my.yaml'?" in wrong.err
    folder = elder("validate", "folder")
    assert folder.code == 2
    assert "folder: cannot be read: it is a directory" in folder.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["edt"], "Did you mean 'edit'"),
        (["edit"], "Missing argument 'CONFIG'"),
        (["plan", "demo", "--nonsense"], "No such option"),
        (["ls", "things"], "is not one of"),
        (["plan", "dmo"], "did you mean 'demo'"),
        (["plan", "demo", "clustr.workers=3"], "did you mean 'cluster'"),
        (["plan", "demo", "workers"], "not of the form key.sub=value"),
        (["validate", "demo", "seed=x", "--json", "no/such/folder/x.json"], "cannot be written"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_meant(elder: Elder, args: list[str], message: str) -> None:
    found = elder(*args)
    assert found.code == 2
    assert message in found.err
    assert "Traceback" not in found.err


def test_error_classes_have_their_exit_codes() -> None:
    from elder import errors
    from elder.errors import GateError

    expected = {
        errors.ElderError: 1,
        errors.AdapterError: 1,
        errors.ConfigError: 2,
        errors.DataError: 2,
        errors.ModelError: 2,
        errors.UnreachableError: 3,
        GateError: 4,
        errors.RunTakenOver: 5,
    }
    assert {kind: exit_code(kind("x")) for kind in expected} == expected
    assert exit_code(ValueError("x")) == 1
    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = GateError("refused")
    assert exit_code(wrapped) == 4


def test_unforeseen_errors_show_their_trace(elder: Elder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("elder.pipelines.config.run.load_config", broken)
    found = elder("plan", "demo")
    assert found.code == 1
    assert "ZeroDivisionError: oops" in found.err
    assert "please report" in found.err


def test_interrupts_exit_130(elder: Elder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elder.pipelines.config.run.load_config", interrupted)
    assert elder("plan", "demo").code == 130


def test_doctor_prints_a_line_or_a_remedy_for_each_part(
    elder: Elder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from elder.infra.doctor.checks import Check

    given = {}

    def look(**places: object) -> list[Check]:
        given.update(places)
        race = Check("store race", True, "two won", "one driver only", warn=True)
        return [Check("python", True, "3.11"), Check("object store", False, "no answer", "start it"), race]

    monkeypatch.setattr("elder.infra.doctor.checks.check", look)
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    found = elder("doctor", "demo", "tracking.store=s3://b/p", "tracking.s3.addressing=path", "--json", "d.json")
    assert found.code == 3
    assert "ok   python" in found.out
    assert "FAIL object store" in found.out
    assert "-> start it" in found.out
    assert (given["store"], given["s3"]["addressing"], given["cache"]) == ("s3://b/p", "path", tmp_path / "home")
    assert re.search(r"^warn store race .*two won\n.*-> one driver only$", found.out, re.MULTILINE)
    told = json.loads((tmp_path / "d.json").read_text())["checks"]
    assert [check["status"] for check in told] == ["ok", "FAIL", "warn"]
    named = elder("doctor", "--config", "demo", "tracking.store=s3://b/q", "--address", "http://head:8265")
    assert named.code == 3
    assert (given["store"], given["address"]) == ("s3://b/q", "http://head:8265")
    twice = elder("doctor", "demo", "--config", "world_1000")
    assert twice.code == 2
    assert "two configs" in twice.err


def test_ls_names_methods_datasets_and_configs(elder: Elder, tmp_path: Path) -> None:
    assert "elder-plus" in elder("ls", "methods").out
    datasets = elder("ls", "datasets", "--json", "d.json")
    assert {"counterfact", "zsre", "jsonl"} <= set(json.loads((tmp_path / "d.json").read_text())["datasets"])
    assert "counterfact" in datasets.out
    listed = elder("ls", "configs").out
    for name in packaged_configs():
        assert name in listed


def test_ls_without_a_kind_names_everything_and_the_commands_that_say_more(elder: Elder) -> None:
    out = elder("ls").out
    for kind in ("methods", "datasets", "configs"):
        assert f"elder ls {kind}" in out
        listed = elder("ls", kind).out.splitlines()
        assert listed
        assert all(line.split()[0] in out.replace(",", " ").split() for line in listed)


def test_ls_config_reference_is_the_committed_page(elder: Elder) -> None:
    assert elder("ls", "config-reference").out == (ROOT / "docs" / "config.md").read_text(encoding="utf-8")


def test_ls_config_schema_is_the_packaged_file(elder: Elder) -> None:
    for kind in ("edit", "tune", "compare", "study", "training"):
        packaged = ROOT / "configs" / "schema" / f"{kind}.json"
        assert elder("ls", "config-schema", "--of", kind).out == packaged.read_text(encoding="utf-8"), "make docs"
    unknown = elder("ls", "config-schema", "--of", "edits")
    assert unknown.code == 2
    assert "known: edit, tune" in unknown.err


def test_former_names_are_taken_with_one_note_each(elder: Elder, tmp_path: Path) -> None:
    assert elder("cp", "demo", "mine.yaml").code == 0
    text = (tmp_path / "mine.yaml").read_text().replace("cluster:\n", "cluster:\n  patience_s: 7\n")
    (tmp_path / "mine.yaml").write_text(text)
    line = text.splitlines().index("  patience_s: 7") + 1
    found = elder("plan", "mine.yaml", "tracking.patience_s=9", "stream.strategy=apart", "tracking.register=null")
    assert found.code == 0, found.err
    assert sorted(found.err.splitlines()) == [
        "note: command line: stream.strategy: 'apart' is now called 'isolated'",
        "note: command line: tracking.patience_s is now called tracking.retry_timeout_s",
        f"note: mine.yaml:{line}: cluster.patience_s is now called cluster.wait_for_resources_s",
    ]
    for written in ("wait_for_resources_s: 7.0", "retry_timeout_s: 9.0", "strategy: isolated"):
        assert written in found.out
    assert "patience_s" not in found.out


def test_help_does_not_import_pydantic() -> None:
    code = "import sys; from elder.jobs.main import main; main(['--help']); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_cp_copies_with_comments_and_never_over_a_file(elder: Elder, tmp_path: Path) -> None:
    for name, source in packaged_configs().items():
        target = tmp_path / "mine" / f"{name.replace('/', '-')}.yaml"
        assert elder("cp", name, target).code == 0
        (named, *rest), (relative, *there) = target.read_text().splitlines(), source.read_text().splitlines()
        assert rest == there
        schema = Path(unquote(urlsplit(named.split("=")[1]).path))
        assert schema == (source.parent / relative.split("=")[1]).resolve()
        assert schema.is_file()
    (tmp_path / "x.yaml").write_text("mine")
    refused = elder("cp", "demo", "x.yaml")
    assert refused.code == 2
    assert "exists already" in refused.err
    assert (tmp_path / "x.yaml").read_text() == "mine"
    assert elder("cp", "demo", "x.yaml", "--force").code == 0
    (tmp_path / "folder").mkdir()
    assert elder("cp", "demo", "folder").code == 0
    assert (tmp_path / "folder" / "demo.yaml").exists()
    assert elder("cp", "nothing", "y.yaml").code == 2


SEVERAL = ("tune/", "studies/", "train/", "compare_")  # not one edit run each


@pytest.mark.parametrize("name", [n for n in sorted(packaged_configs()) if not n.startswith(SEVERAL)])
def test_every_shipped_config_can_be_planned(
    elder: Elder, tmp_path: Path, name: str, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = elder("plan", name, "--json", tmp_path.parent / "plan.json", "run_id=r1")
    assert found.code == 0, found.err
    assert list(tmp_path.iterdir()) == [], "a plan touches nothing"
    record = json.loads((tmp_path.parent / "plan.json").read_text())
    assert len(record["stages"]) == -(-record["edits"] // record["config"]["stream"]["stage_size"])
    assert [item["sharding"] for item in record["memory"]] == ["none", "zero2", "zero3"]
    for text in ("resolved config", "memory per worker", "COMMIT.json", "mlflow"):
        assert text in found.out


def test_plan_follows_memory(elder: Elder) -> None:
    assert (
        "* zero3: the whole model does not fit" in elder("plan", "paper/elder_llama2_7b_zsre", "--memory-gib", "24").out
    )
    assert "* none: the whole model fits" in elder("plan", "paper/elder_llama2_7b_zsre", "--memory-gib", "80").out


def test_validate_prints_the_resolved_config_and_starts_nothing(
    elder: Elder, tmp_path: Path, small_run: list[str]
) -> None:
    before = set(tmp_path.iterdir())
    found = elder("validate", "demo", *small_run, "--json", tmp_path.parent / "v.json")
    assert found.code == 0, found.err
    assert "config ok" in found.out
    assert "data ok: 8 edits" in found.out
    assert set(tmp_path.iterdir()) == before
    assert json.loads((tmp_path.parent / "v.json").read_text())["edits"] == 8


def test_validate_of_the_embedded_world_does_not_train_it(
    elder: Elder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    found = elder("validate", "demo")
    assert found.code == 0, found.err
    assert "200 edits" in found.out
    assert "trained on first use" in found.out
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", [n for n in sorted(packaged_configs()) if n.startswith(("paper/", "counterfact"))])
def test_configs_without_a_file_say_how_to_name_one(elder: Elder, name: str, model_directory: Path) -> None:
    found = elder("validate", name, f"model.source={model_directory}")
    assert found.code == 2
    assert "data.path" in found.err
