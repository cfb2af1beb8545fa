"""When two answers are the same: normalisation and exact match.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import string
import unicodedata

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
    """Whether a whole answer equals a target after normalisation.

    A target that normalises to nothing (the grade 'A', the sign '?') is compared as it is, apart from
    case and outer white space; otherwise every empty answer would equal it.
    """
    wanted = normalise(target)
    if not wanted:
        return answer.strip().casefold() == target.strip().casefold()
    return normalise(answer) == wanted
