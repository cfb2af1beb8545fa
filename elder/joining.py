"""How a prompt and the answer after it become one text: with a space between them, or without one.

Nobody wrote the space, so it is added only where a writer of the language would. Knows nothing of tokenizers.
"""

from __future__ import annotations

import re
import unicodedata

NO_SPACES = (
    "CJK ", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "IDEOGRAPHIC", "YI SYLLABLE", "THAI", "LAO",
    "KHMER", "MYANMAR", "TIBETAN", "TAI ", "NEW TAI", "JAVANESE", "BALINESE",
)  # fmt: skip
"""How the Unicode names of letters begin whose scripts put no spaces between words. Korean puts them."""

MARKS = "¿¡#"  # open a word or a sentence, unless they end one, as in "C#"
GLUED = "/\\_@"  # what follows these belongs to the same word
QUOTES = "\"'`"  # straight ones open and close alike
ELISION = re.compile(
    r"(?<!\w)(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|quoiqu|[ad]ll|all|dell|nell|sull|quell|un)['’]$", re.I
)
"""French and Italian words that lose their vowel before the next one, as in `l'Italie`."""


def join(prompt: str, answer: str) -> str:
    """The whole text: `prompt`, a space where one belongs, `answer`."""
    return prompt + seam(prompt, answer) + answer


def seam(prompt: str, answer: str) -> str:
    """What stands between a prompt and its answer: one space, or nothing.

    Nothing where the user has written it already (the answer begins with white space, or the prompt ends in white
    space), after an opening sign (bracket, opening quote, currency sign, slash), and in scripts without spaces.
    """
    if not prompt or not answer or prompt[-1].isspace() or answer[0].isspace():
        return ""
    if opens(prompt) or unicodedata.category(answer[0]).startswith("M"):
        return ""
    return "" if _in_one_piece(prompt, answer) else " "


def opens(prompt: str) -> bool:
    """Whether a prompt ends in a sign that belongs to what comes after it."""
    sign = prompt[-1]
    category = unicodedata.category(sign)
    if category == "Ps" or sign in GLUED:
        return True
    if category == "Sc":
        return not prompt[-2:-1].isdigit()  # "costs $" and "US$", but "40€"
    if sign in MARKS:
        return _begins_word(prompt[:-1])
    if sign in "'’" and ELISION.search(prompt):
        return True
    if sign in QUOTES or category in ("Pi", "Pf"):  # „German“ closes with what opens in English, »this« the other way
        return _quote_opens(prompt, sign)
    return False


def spaceless(letter: str) -> bool:
    """Whether a letter is of a script that puts no spaces between words."""
    return unicodedata.name(letter, "").startswith(NO_SPACES)


def _begins_word(before: str) -> bool:
    """Whether what follows a text begins a new word by itself."""
    if not before or before[-1].isspace():
        return True
    return unicodedata.category(before[-1]) in ("Ps", "Pi", "Pd", "Sm") or before[-1] in QUOTES or spaceless(before[-1])


def _quote_opens(prompt: str, sign: str) -> bool:
    before = prompt[:-1]
    if before and spaceless(before[-1]):
        return prompt.count(sign) % 2 == 1
    return _begins_word(before)


def _in_one_piece(prompt: str, answer: str) -> bool:
    """Whether the script of the prompt, or of prompt and answer alike, has no spaces."""
    if unicodedata.category(prompt[-1]).startswith("P") and unicodedata.east_asian_width(prompt[-1]) in "WF":
        return True
    last = next((letter for letter in reversed(prompt) if letter.isalpha()), "")
    if last and spaceless(last):
        return True
    return spaceless(answer[0]) and any(spaceless(letter) for letter in prompt)
