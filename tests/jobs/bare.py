"""A Python in which only what `pip install elder[EXTRAS]` brings can be imported, though more is installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.declared import absent_without
from tests.jobs.conftest import ROOT

# As absent as what was never installed: not found by name, and an import of it says so.
REFUSE = """
import json, os, sys
refused = set(json.loads(os.environ["REFUSED"]))
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
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
