"""From a text that a user wrote to a path: what no system can look up is refused with a sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from elder.errors import ElderError, InputError

MOST_BYTES = 4000  # of a path; 255 of each name in it


def user_path(text: str | Path, refuse: type[ElderError] = InputError) -> Path:
    """The path of a text, with `~` replaced.

    Args:
        text: What the user wrote.
        refuse: The error to raise.

    Raises:
        ElderError: Of that class: it names a user that is not there, or it cannot be a path at all.
    """
    try:
        path = Path(text).expanduser()
        encoded = os.fsencode(path)
    except RuntimeError as error:
        raise refuse(f"'{text}': there is no such user, or the user has no home directory") from error
    except UnicodeEncodeError as error:
        raise refuse(f"{str(text)!a} is no path: it holds half a character") from error
    if b"\0" in encoded:
        raise refuse(f"{str(text)!a} is no path: it holds a NUL character")
    if len(encoded) > MOST_BYTES or any(len(name) > 255 for name in encoded.split(b"/")):
        raise refuse(f"'{str(text)[:40]}...' is no path: it, or a name in it, is too long")
    return path


def not_plain(path: Path) -> str | None:
    """What stands at a path instead of a plain file, in words; None where a plain file or nothing is there.

    To open a pipe waits for a writer, and a device may have no end: look here before a file that a user names is read.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return None  # who opens it says why
    return None if stat.S_ISREG(mode) else next((word for is_one, word in _OTHERS if is_one(mode)), "no plain file")


def check_plain(path: Path, refuse: type[ElderError] = InputError) -> None:
    """Refuse what is there and is no plain file.

    Raises:
        ElderError: Of that class: it is a directory, a pipe, a socket or a device.
    """
    if found := not_plain(path):
        raise refuse(f"{path}: cannot be read: it is {found}; expected a plain file")


def check_plain_below(folder: Path, refuse: type[ElderError] = InputError) -> None:
    """Refuse a folder in which something is no plain file, at any depth; hidden folders are left alone.

    Libraries that read or copy a folder would wait for a pipe, and read a device without end.

    Raises:
        ElderError: Of that class; the first is named.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            check_plain(Path(place) / name, refuse)


_OTHERS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
