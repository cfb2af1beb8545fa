"""What the wheel holds: the whole house inside `elder`, and nothing beside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("elder", "pipelines", "infra", "jobs", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what git knows, so that leftovers of this checkout do not count."""
    source = tmp_path_factory.mktemp("source")
    archive = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in archive.stdout.decode().strip("\0").split("\0"):
        place, target = ROOT / name, source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            target.symlink_to(place.readlink())
        elif place.is_file():
            target.write_bytes(place.read_bytes())
    found = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(found), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = found.glob("elder-*.whl")
    return made


def test_every_source_and_every_config_is_in_it(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"elder"}
    wanted = set()
    for folder in FOLDERS:
        kinds = ("*.yaml", "*.json") if folder == "configs" else ("*.py",)
        for path in (path for kind in kinds for path in (ROOT / folder).rglob(kind)):
            below = path.relative_to(ROOT).as_posix()
            wanted.add(below if folder == "elder" else f"elder/{below}")
    assert wanted - inside == set()
