"""Is a text one that can be written down and seen? Knows nothing of what it says."""

from __future__ import annotations

import unicodedata

HALF = "half a character (a lone surrogate such as \\ud83d)"
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs by their class, drawn as nothing


def is_writable(text: str) -> bool:
    """Whether a text can be written to a file: it holds no half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_visible(text: str) -> bool:
    """Whether a text has a character that one can see: not only spaces, zero-width and control characters."""
    return any(unicodedata.category(char) not in _UNSEEN and char not in BLANK for char in text)


def text_problem(text: str) -> str | None:
    """Why a text cannot be a prompt or an answer, to be put after its name; None when it can."""
    if not text.strip():
        return "is empty"
    if not is_writable(text):
        return f"holds {HALF}"
    return None if is_visible(text) else f"has only characters that cannot be seen: {ascii(text)[:60]}"


_UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Zs", "Zl", "Zp")
