"""What a stranger looks for beside the code: one version, a licence, doors that say what is public."""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import elder
from tests.architecture.sources import ROOT, tree

DOORS = ("elder/adapter.py", "elder/export.py", "elder/harness.py", "elder/wrapping.py")
PACKAGES = ("elder", "elder.datasets", "elder.models")


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_there_is_one_version() -> None:
    newest = re.search(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    cited = yaml.safe_load(read("CITATION.cff"))
    assert project()["version"] == elder.__version__ == cited["version"] == newest.group(1)


def test_there_is_one_licence() -> None:
    assert project()["license"] == yaml.safe_load(read("CITATION.cff"))["license"] == "Apache-2.0"
    text = read("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_cited_paper_is_the_one_that_the_method_names() -> None:
    (paper,) = yaml.safe_load(read("CITATION.cff"))["references"]
    source = " ".join(read("elder/editors/mixture/elder.py").split())
    assert paper["title"] in source
    assert paper["conference"]["name"] in source
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in source


@pytest.mark.parametrize("path", DOORS)
def test_a_door_lists_what_is_public(path: str) -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    public = {node.name for node in tree(Path(path)).body if isinstance(node, kinds) and node.name[0] != "_"}
    module = import_module(path.removesuffix(".py").replace("/", "."))
    assert set(module.__all__) == public


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_lists_is_there(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == sorted(set(module.__all__), key=module.__all__.index)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


def test_hooks_call_what_make_lint_calls_and_fetch_nothing() -> None:
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    called = {hook["entry"].split()[0].rpartition("/")[2] for hook in repositories[0]["hooks"]}
    assert called == set(re.findall(r"\$\(BIN\)/(ruff|mypy)", read("Makefile")))


@pytest.mark.parametrize("name", ["CHANGELOG.md", "SECURITY.md"])
def test_lines_wrap_at_a_hundred(name: str) -> None:
    assert [line for line in read(name).splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_what_a_library_warns_us_of_fails_tests(kind: type[Warning]) -> None:
    for ours in ("elder", "elder.models.load", "elder.jobs.main", "tests.conftest"):
        with pytest.raises(kind):
            warnings.warn_explicit("use the new name", kind, "file.py", 1, module=ours)
    for theirs in ("torch.distributed", "ray.train", "elderly"):
        warnings.warn_explicit("use the new name", kind, "file.py", 1, module=theirs)


def test_the_page_on_installation_names_every_extra() -> None:
    told = set(re.findall(r"^\| `pip install 'elder\[(\w+)\]'`", read("docs/install.md"), re.MULTILINE))
    assert told == set(project()["optional-dependencies"]) - {"dev"}
