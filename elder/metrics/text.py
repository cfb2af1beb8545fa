"""When two answers are the same: normalisation and exact match, line by line where a target has several.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import re
import string
import unicodedata

CODE = re.compile(r"[={}<>\[\]|\\^~`]|\w\(|\w_\w|;$")  # signs that a name, a number or a sentence does not have
ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """Lower case, punctuation and English articles stripped, white space folded.

    'The  Paris.' and 'paris' are the same answer. Punctuation means the ASCII signs and every
    character of Unicode category P; it is dropped, not replaced by a space ('U.S.' is 'us').
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    return " ".join(word for word in kept.split() if word not in ARTICLES)


def same_answer(answer: str, target: str) -> bool:
    """Whether a whole answer equals a target: as it is written if that has several lines or is code, else normalised.

    Lines, case and signs of such a target all count; white space at the ends of its lines does not.

    A target that normalises to nothing (the grade 'A', the sign '?') is compared as it is, apart from
    case and outer white space; otherwise every empty answer would equal it.
    """
    if "\n" in target.strip() or CODE.search(target):
        return _lines(answer) in (_lines(target), _lines(f"{target}."))  # editors may teach a full stop after it
    wanted = normalise(target)
    if not wanted:
        return answer.strip().casefold() == target.strip().casefold()
    return normalise(answer) == wanted


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
