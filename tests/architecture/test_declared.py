"""Every imported package is declared, and each room imports what its installation has: the client, or an extra."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from elder.jobs.shared.extras import EXTRAS
from tests.architecture.sources import ROOT, imports, modules, tree
from tests.declared import declared, installed_by, names, project, providers

# Room, or file -> the extras that what is imported there comes from, beside the client. A file goes before its room.
NEEDS: dict[str, tuple[str, ...]] = {
    "elder": ("edit",),
    "elder/datasets": ("edit", "data"),
    "elder/models": ("edit", "peft", "gguf"),
    "elder/harness.py": ("harness",),
    "pipelines/pages": ("edit",),
    "pipelines/planning": ("edit",),
    "pipelines/run": ("edit",),
    "pipelines/search": ("ray",),
    "pipelines/training": ("edit",),
    "pipelines/cluster": ("ray",),
    "infra/doctor": ("edit",),
    "infra/dev": ("services",),
    "jobs/shared": ("edit",),  # transformers is made quiet there, where it is installed
}
# Rooms of the client: what is imported when they are needs no extra.
CLIENT = (
    "elder/datasets", "elder/options", "pipelines", "pipelines/config", "pipelines/planning", "infra/stores",
    "infra/ray_jobs", "infra/tracking", "infra/doctor", "jobs", "jobs/shared", "jobs/terminal", "jobs/remote",
    "jobs/commands",
)  # fmt: skip
UNIMPORTED = {
    "accelerate": "transformers reads GGUF files with it",
    "aiohttp": "Ray's job client imports it",
    "ninja": "DeepSpeed builds its operators with it",
    "numpy": "torch hands tensors to it where their bytes are read",
}


def extras_of(path: Path) -> tuple[str, ...]:
    """The extras of a file: its own, or those of its room, or of the nearest folder above that has some."""
    places = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    return next((NEEDS[place] for place in places if place in NEEDS), ())


def libraries(path: Path, eager: bool = False) -> dict[str, int]:
    """Top-level packages that a file imports, those by `import_module("NAME")` too, with a line of each."""
    found = {one.name.split(".")[0]: one.line for one in imports(path) if one.eager or not eager}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and not eager:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.setdefault(argument.value.split(".")[0], node.lineno)
    return {name: line for name, line in found.items() if name not in sys.stdlib_module_names and name != "elder"}


def undeclared(path: Path, extras: tuple[str, ...], eager: bool = False) -> list[str]:
    """The packages that a file imports and neither the client nor the extras declare."""
    known = names(declared()).union(*(names(declared(extra)) for extra in extras))
    return [
        f"{path}:{line} imports {name}" for name, line in libraries(path, eager).items() if not providers(name) & known
    ]


def test_every_import_is_declared_by_the_client_or_by_an_extra_of_its_room() -> None:
    assert [line for path in modules() for line in undeclared(path, extras_of(path))] == []


def test_an_import_that_nobody_declares_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert undeclared(Path("pipelines/search/optuna_tpe.py"), ("edit",))
    assert undeclared(Path("elder/models/peft_adapters.py"), ("edit",)) == [
        line for line in undeclared(Path("elder/models/peft_adapters.py"), ()) if line.endswith("imports peft")
    ]


@pytest.mark.parametrize("room", CLIENT)
def test_importing_a_room_of_the_client_needs_no_extra(room: str) -> None:
    here = [path for path in modules() if path.parent.as_posix() == room]
    assert here
    assert [line for path in here for line in undeclared(path, (), eager=True)] == []


def test_tests_and_benchmarks_import_what_dev_declares() -> None:
    known = names(declared()) | names(declared("dev")) | names(declared("harness"))
    bad = []
    for folder in ("tests", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            below = path.relative_to(ROOT)
            if below.parts[:2] == ("tests", "data"):
                continue  # what an older version wrote
            for name, line in libraries(below).items():
                if name not in ("tests", "bench") and not providers(name) & known:
                    bad.append(f"{below}:{line} imports {name}")
    assert bad == []


def test_nothing_is_declared_that_nobody_imports() -> None:
    used = {name for path in modules() for name in libraries(path)}
    for extra in (None, *(name for name in project()["optional-dependencies"] if name != "dev")):
        idle = {name for name in names(declared(extra)) if not any(name in providers(package) for package in used)}
        assert idle <= set(UNIMPORTED), extra


def test_extras_are_named_for_what_only_they_bring() -> None:
    for extra, packages in EXTRAS.items():
        brings = (installed_by(extra) | names(declared(extra))) - installed_by()
        for package in packages:
            assert providers(package) & brings, f"{package} does not come with elder[{extra}]"
    assert set(EXTRAS) | {"all", "dev"} == set(project()["optional-dependencies"])


def test_the_client_is_without_torch() -> None:
    there = installed_by()
    assert there >= {"ray", "mlflow-skinny", "boto3", "rich", "requests"}
    assert there & {"torch", "transformers", "numpy", "pandas", "mlflow", "sqlalchemy", "deepspeed", "pyarrow"} == set()
