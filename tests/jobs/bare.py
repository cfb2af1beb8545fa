"""A Python in which only what `pip install elder[EXTRAS]` brings can be imported, though more is installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.declared import absent_without
from tests.jobs.conftest import ROOT

# As absent as what was never installed. Ray brings a psutil of its own in a folder that it puts on the path; that one
# is there.
REFUSE = """
import importlib.machinery, json, os, sys
refused = set(json.loads(os.environ["REFUSED"]))
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        brought = any("thirdparty_files" in folder and os.path.isdir(os.path.join(folder, top)) for folder in sys.path)
        return super().find_spec(name, path, target) if top not in refused or brought else None
sys.meta_path[:] = [Bare if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
COMMAND = """
from elder.jobs.main import main
sys.exit(main(sys.argv[1:]))
"""


def bare_python(code: str, *args: object, extras: tuple[str, ...] = (), cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that has the client and some extras."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "REFUSED": json.dumps(absent_without(*extras))}
    command = [sys.executable, "-c", REFUSE + code, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def bare_elder(*args: object, extras: tuple[str, ...] = (), cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call `elder ARGS...` in such a process."""
    return bare_python(COMMAND, *args, extras=extras, cwd=cwd)
