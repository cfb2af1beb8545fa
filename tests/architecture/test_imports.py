"""Dependencies point downwards, and every library has one owner."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, imports, modules, within

STDLIB = set(sys.stdlib_module_names)
LIBRARIES = {
    "elder": {
        "torch", "transformers", "safetensors", "tokenizers", "numpy", "pydantic", "pydantic_core", "lm_eval", "elder",
    },
    "pipelines": {
        "torch", "transformers", "safetensors", "numpy", "yaml", "ray", "deepspeed", "matplotlib", "jinja2", "rich",
        "optuna", "tenacity", "pydantic", "pydantic_core", "elder",
    },
    "infra": {
        "boto3", "botocore", "mlflow", "requests", "ray", "yaml", "pandas", "swift", "psutil", "torch", "pathspec",
        "tenacity", "elder",
    },
    "jobs": {"click", "rich", "transformers", "elder"},
}  # fmt: skip
OWNERS = {
    "deepspeed": {"pipelines/cluster/deepspeed_runtime.py", "pipelines/cluster/deepspeed_private.py"},
    "ray.train": {
        "pipelines/cluster/ray_train.py",
        "pipelines/cluster/ray_private.py",
        "pipelines/cluster/trial_group.py",
    },
    "ray.tune": {"pipelines/cluster/early_stopping.py"},
    "ray.job_submission": {"infra/ray_jobs/submit.py"},
    "boto3": {"infra/stores/s3.py"},
    "botocore": {"infra/stores/s3.py", "infra/stores/s3_errors.py"},
    "mlflow": {
        "infra/tracking/connection.py",
        "infra/tracking/mlflow_private.py",
        "infra/tracking/tracker.py",
        "infra/tracking/elder_pyfunc.py",
    },
    "matplotlib": {"pipelines/pages/axes.py", "pipelines/pages/plots.py", "pipelines/search/plots.py"},
    "jinja2": {"pipelines/pages/page.py"},
    "optuna": {"pipelines/search/optuna_tpe.py"},
    "requests": {"infra/tracking/connection.py"},  # what MLflow's client raises
    "swift": {"infra/dev/swift_server.py", "infra/dev/swift_repair.py"},
    "psutil": {"infra/dev/processes.py"},
    "lm_eval": {"elder/harness.py"},
    "datasets": {"elder/datasets/hub.py"},
    "pyarrow": {"elder/datasets/tables.py"},
}
HEAVY = ("torch", "transformers", "ray", "mlflow", "boto3", "deepspeed", "matplotlib", "pandas", "numpy", "rich")


def breaches(package: str) -> list[str]:
    """Imports of libraries that a folder may not have. Rooms of the house are the matter of `test_rooms`."""
    bad = []
    for path in modules(package):
        for found in imports(path):
            top = found.name.split(".")[0]
            ok = top in STDLIB or top in LIBRARIES[package]
            if path.parts[:2] == ("elder", "datasets") and top in ("datasets", "pyarrow"):
                ok = not found.eager
            if package == "infra" and top == "torch":
                ok = not found.eager and path.name in ("elder_pyfunc.py", "checks.py", "nodes.py")
            if not ok:
                bad.append(f"{path}:{found.line} imports {found.name}")
    return bad


def test_ray_is_named_in_one_room_of_the_pipelines() -> None:
    users = {path.parent.as_posix() for path in modules("pipelines") for f in imports(path) if within(f.name, "ray")}
    assert users == {"pipelines/cluster"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_imports_only_its_libraries(package: str) -> None:
    assert modules(package), f"no source found in {package}/"
    assert breaches(package) == []


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owner_only(library: str) -> None:
    users = {str(path) for path in modules() for found in imports(path) if within(found.name, library)}
    assert users <= OWNERS[library]


def test_the_command_line_imports_nothing_heavy_at_its_top() -> None:
    # Display and pages are imported inside verbs, so they may import rich; verbs and main may not.
    names = ("ability", "display", "tune_display", "summary", "run_page")
    pages = {f"jobs/terminal/{name}.py" for name in names}
    bad = [
        f"{path}:{found.line} imports {found.name}"
        for path in modules("jobs")
        for found in imports(path)
        if found.eager and within(found.name, *(HEAVY[:-1] if str(path) in pages else HEAVY))
    ]
    assert bad == []


def test_only_jobs_and_the_engine_room_read_environment_variables() -> None:
    # Runners must set variables that DeepSpeed and Ray read; nobody else may depend on the environment.
    bad = []
    for path in modules("elder"):
        text = (Path(__file__).resolve().parents[2] / path).read_text(encoding="utf-8")
        bad += [str(path)] if "os.environ" in text or "getenv" in text else []
    assert bad == []


def test_what_libraries_keep_to_themselves_is_used_in_one_file_each() -> None:
    private = ("ray._private", "ray.train.v2._internal", "deepspeed.runtime", "mlflow.utils")
    users = {str(path) for path in modules() for found in imports(path) if within(found.name, *private)}
    users |= {
        str(path) for path in modules() if re.search(r"(?<![\"'])ray\._private\.\w+\.", (ROOT / path).read_text())
    }
    assert users == {
        "pipelines/cluster/ray_private.py", "pipelines/cluster/deepspeed_private.py", "infra/tracking/mlflow_private.py"
    }  # fmt: skip
