"""The wheel of what git knows, and an environment that has it and borrows every other package of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(target: Path) -> Path:
    """Build the wheel into a directory, from what git knows, so that leftovers of this checkout do not count."""
    source = target / "source"
    archive = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in archive.stdout.decode().strip("\0").split("\0"):
        place, copy = ROOT / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            copy.symlink_to(place.readlink())
        elif place.is_file():
            copy.write_bytes(place.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = target.glob("elder-*.whl")
    return made


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    root: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.root / "bin" / "python"

    def run(self, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program with what the environment has and nothing of this checkout."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith(("MLFLOW_", "RAY_"))
        }
        environment |= {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", **variables}
        command = [str(word) for word in words]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
        )


def fresh_environment(root: Path, wheel: Path) -> Environment:
    """Make an environment and install the wheel into it.

    The packages of this interpreter are put on its path by a line of a .pth file. Files like it in that folder, such as
    the one that makes this checkout importable, are not read there.
    """
    venv.create(root)
    made = Environment(root)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(root), "platbase": str(root)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(made.python), "install", "-q", "--no-deps", "--no-index",
               "--ignore-installed", str(wheel)]  # fmt: skip
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return made
