"""Draw the picture of a run in the README: `python docs/pictures/make.py` (some minutes, two Ray workers).

Runs `elder demo` in a pseudo-terminal, in an empty directory, and draws what is on the screen at the end: bars and
tables that were erased on the way are not there, as they are not there for a user. Nothing is changed but the name of
that directory, which is written as `/home/you`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("demo.svg")
WIDTH, HEIGHT = 120, 60  # characters
PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r*\n)|(\r)|([^\x1b\r\n]+)")


def main() -> None:
    """Run the demo with the options given, such as `cluster.workers=0`, and write the picture."""
    program = [sys.executable, "-c", "from elder.jobs.main import main; main()", "demo", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as directory:
        said = record(program, Path(directory), {"PYTHONPATH": str(ROOT)}).replace(directory, "/home/you")
    PICTURE.write_text(draw(screen(said), " ".join(["elder demo", *sys.argv[1:]])), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")


def record(program: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """All that a program writes to a terminal of `WIDTH` columns; it is shown here as well.

    Raises:
        CalledProcessError: The program failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    settings = {**os.environ, "TERM": "xterm-256color", **environment}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        settings.pop(name, None)
    process = subprocess.Popen(program, cwd=directory, env=settings, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts: list[bytes] = []
    while part := _read(ours):
        parts.append(part)
        sys.stdout.buffer.write(part)
        sys.stdout.flush()
    os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, program)
    return b"".join(parts).decode("utf-8", errors="replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # on Linux the end of a pseudo-terminal is an input/output error
        return b""


def screen(said: str) -> list[str]:
    """The lines that are on a screen at the end, from the top of the session, with their colours.

    Knows what rich writes: colours, "up by n lines", "erase this line", and switching the cursor on and off.

    Raises:
        ValueError: Another control sequence.
    """
    lines, row, fresh = [""], 0, False  # fresh: what comes next begins at the left edge
    for code, kind, newline, back, text in PIECE.findall(said):
        if newline:
            row, fresh = row + 1, False
            lines += [""] * (row + 1 - len(lines))
        elif back:
            fresh = True
        elif kind == "A":
            row = max(0, row - int(code or 1))
        elif kind == "K":
            lines[row] = ""
        elif kind == "m" or text:
            lines[row] = ("" if fresh else lines[row]) + (text or f"\x1b[{code}m")
            fresh = False
        elif not (kind in "hl" and code.startswith("?")):
            raise ValueError(f"the screen does not know the control sequence ESC [{code}{kind}")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def draw(lines: Sequence[str], title: str) -> str:
    """The lines as an SVG; a line that is too long is folded where a terminal folds it."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    for line in lines:
        text = Text.from_ansi(line)
        for part in text.divide(range(WIDTH, len(text), WIDTH)) if len(text) > WIDTH else [text]:
            console.print(part, no_wrap=True, highlight=False)
    svg = console.export_svg(title=title, unique_id="elder-demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts are the reader's: nothing is fetched


if __name__ == "__main__":
    main()
