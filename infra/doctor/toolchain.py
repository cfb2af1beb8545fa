"""Whether this machine could build DeepSpeed's own operators. Runs need none of them. Starts nothing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")


def find_compiler() -> str | None:
    """The C++ compiler that PyTorch's extension builder would take: CXX, or the first of the usual names."""
    chosen = os.environ.get("CXX")
    names = (chosen.split()[0],) if chosen and chosen.split() else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def find_ninja() -> str | None:
    """The `ninja` program, on PATH or beside the interpreter (where pip puts it)."""
    beside = Path(sys.executable).parent / "ninja"
    return shutil.which("ninja") or (str(beside) if os.access(beside, os.X_OK) else None)
