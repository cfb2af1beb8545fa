"""From a text that a user wrote to a path: what no system can look up is refused with a sentence."""

from __future__ import annotations

import os
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
