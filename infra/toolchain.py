"""Whether this machine can build what DeepSpeed builds at its first start on a CPU. Starts nothing."""

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


def missing_tools() -> list[str]:
    """A sentence with a remedy for each tool that is missing; empty when all are there."""
    missing = []
    if find_compiler() is None:
        missing.append(
            "no C++ compiler was found, and DeepSpeed builds its communication kernels with one. "
            "Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select "
            "--install), or set CXX, or run without it: cluster.sharding=none"
        )
    if find_ninja() is None:
        missing.append(
            "the program ninja was not found, and DeepSpeed builds its communication kernels with it. "
            "Install it (pip install ninja), or run without it: cluster.sharding=none"
        )
    return missing


def missing_toolchain() -> str | None:
    """All that is missing in one text; None when nothing is."""
    return "\n".join(missing_tools()) or None
