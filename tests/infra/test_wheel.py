"""What the wheel holds: the whole house inside `elder`, and nothing beside it."""

from __future__ import annotations

import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.infra.wheel import ROOT, build_wheel

FOLDERS = ("elder", "pipelines", "infra", "jobs", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_every_source_config_and_template_is_in_it(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"elder"}
    wanted = set()
    for folder in FOLDERS:
        kinds = ("*.yaml", "*.json") if folder == "configs" else ("*.py", "*.jinja", "*.tsv")
        for path in (path for kind in kinds for path in (ROOT / folder).rglob(kind)):
            below = path.relative_to(ROOT).as_posix()
            wanted.add(below if folder == "elder" else f"elder/{below}")
    assert wanted - inside == set()
    assert "elder/py.typed" in inside


def test_its_metadata_name_licence_and_extras(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    found = Parser().parsestr(archive.read(metadata).decode())
    assert found["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {"edit", "ray", "tracking", "data", "services", "harness", "all"} <= set(found.get_all("Provides-Extra"))
    assert not any("torch" in one for one in found.get_all("Requires-Dist") if "extra ==" not in one)
