"""elder from its wheel, among packages of the same names: here, in Ray's workers, and in MLflow's loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.infra.wheel import ROOT, Environment, build_wheel, fresh_environment
from tests.jobs.conftest import build_model, records, write_jsonl

# Interpreters are started one after another, each with torch, Ray or MLflow: a minute alone, five on a busy machine.
pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1300)]
NEIGHBOURS = ("infra", "jobs", "pipelines", "configs", "tests", "bench")
ANSWER = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
loaded = mlflow.pyfunc.load_model(sys.argv[2])
import elder, elder_pyfunc
print("ANSWERS", json.dumps([elder.__file__, loaded.predict(["Person 0 lives in the town of", "Water"])]))
"""
# What `tracking.mlflow_limit_mb` makes of a large adapter: its place in MLflow has a pointer to the store.
POINTED = """
import json, os, pathlib, shutil, sys
import mlflow
from elder.infra.tracking.elder_pyfunc import save_model
from elder.infra.tracking.pointer import make_pointer
adapter, work = map(pathlib.Path, sys.argv[1:])
(work / "pointed").mkdir(parents=True)
shutil.copy(adapter / "manifest.json", work / "pointed")
(work / "pointed" / "pointer.json").write_text(make_pointer(adapter, str(adapter), {}).to_json())
save_model(work / "model", work / "pointed", "m-1", "run")
os.environ["ELDER_STORE"] = str(adapter)
print("ANSWERS", json.dumps(mlflow.pyfunc.load_model(str(work / "model")).predict(["Water"])))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    place = tmp_path_factory.mktemp("installed")
    return fresh_environment(place / "venv", build_wheel(place))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a platform team works: packages of their own, a model, a file of edits."""
    place = tmp_path_factory.mktemp("team")
    for name in NEIGHBOURS:
        (place / name).mkdir()
        (place / name / "__init__.py").write_text(f"raise RuntimeError('{name}/ of the neighbours was imported')\n")
    build_model(place / "model", "llama")
    write_jsonl(place / "edits.jsonl", records(4))
    return place


def edit(installed: Environment, folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    """`elder edit demo` in the folder, where the neighbours can be imported; returns its result."""
    given = (
        f"model.source={folder / 'model'}", "data.source=jsonl", f"data.path={folder / 'edits.jsonl'}",
        "data.edits=null", "stream={stage_size: 2, batch_size: 2}",
        "editor={method: elder, steps: 2, layers: [2, 3], rank: 2}", "evaluation={max_new_tokens: 4, probes: 0}",
        f"tracking.store={folder / name / 'store'}", f"tracking.mlflow={folder / 'mlflow.db'}",
        f"tracking.register={name}",
    )  # fmt: skip
    command = (installed.root / "bin" / "elder", "edit", "demo", *given, *overrides, "--json", f"{name}.json")
    done = installed.run(*command, cwd=folder, PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return result


def answers(installed: Environment, folder: Path, code: str, *args: object) -> list[Any]:
    """What a program in the folder prints behind ANSWERS."""
    environment = {"PYTHONPATH": str(folder), "ELDER_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = installed.run(installed.python, "-c", code, *args, cwd=folder, **environment)
    assert "ANSWERS" in done.stdout, done.stdout + done.stderr
    found: list[Any] = json.loads(done.stdout.split("ANSWERS", 1)[1])
    return found


def test_the_installed_package_is_the_one_that_runs(installed: Environment, folder: Path) -> None:
    code = "import sys, elder; print(elder.__file__, [path for path in sys.path if path.startswith(sys.argv[1])])"
    done = installed.run(installed.python, "-c", code, ROOT, cwd=folder)
    assert done.stdout.startswith(str(installed.root)), done.stdout + done.stderr
    assert "[]" in done.stdout or str(ROOT / ".venv") in done.stdout, "nothing but borrowed packages is of the checkout"
    done = installed.run(installed.python, "-c", "import infra", cwd=folder)
    assert "infra/ of the neighbours was imported" in done.stderr
    done = installed.run(installed.root / "bin" / "elder", "ls", "configs", cwd=folder)
    assert "paper/elder_llama2_7b_zsre" in done.stdout


@pytest.fixture(scope="module")
def here(installed: Environment, folder: Path) -> dict[str, Any]:
    """The result of a run in one process."""
    return edit(installed, folder, "here", "cluster={workers: 0, sharding: none}")


def test_a_run_here_and_its_adapter_in_mlflow(installed: Environment, folder: Path, here: dict[str, Any]) -> None:
    place, said = answers(installed, folder, ANSWER, f"sqlite:///{folder / 'mlflow.db'}", "models:/here/1")
    assert place.startswith(str(installed.root))
    assert len(said) == 2
    assert answers(installed, folder, POINTED, here["adapter"]["uri"], folder / "work") == said[1:]


def test_a_run_in_rays_workers(installed: Environment, folder: Path, here: dict[str, Any]) -> None:
    there = edit(installed, folder, "there", "cluster={workers: 1, sharding: none, address: local}")
    assert there["adapter"]["digest"] == here["adapter"]["digest"]
