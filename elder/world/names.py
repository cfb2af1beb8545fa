"""Invented people: two-word names made of syllables, so that no real person is meant.

Knows nothing of facts, tokenizers or models.
"""

from __future__ import annotations

import random


def words(text: str) -> list[str]:
    """The words of a list that is written as one text."""
    return text.split()


FIRST_NAMES = words(
    "Abren Adlin Alvo Amira Anselm Arla Basko Belin Benor Brisa Calder Celvin Corin Dalia Darvo Delma Edric Elvo Emlin "
    "Farin Fenna Galen Gerda Gorin Halda Harlo Ilsa Imre Jarek Jolan Kasia Kelmo Kira Lando Leora Lisbet Marek Melva "
    "Mirko Nadia Nelko Olma Orrin Petra Quila Ranko Rosla Sabin Selma Stelo Tamsin Tarvo Ulric Varda Velko Wanda Wilmo "
    "Xenia Yarno Zelda"
)

LAST_HEADS = words(
    "Bar Bel Bran Cal Cor Dal Dor Dun Fal Far Fen Gar Gil Hal Har Hol Jor Kal Kar Kel Lan Lor Mal Mar Mer Nor Or Pel "
    "Ral Ros Sal Sel Tar Tor Ul Val Ver Wal Wen Zan"
)

LAST_TAILS = words(
    "beck bury cott dane dell denko dred fax field ford gard gate gren hart holm kin land ley lund mark mer mond moor "
    "nova quist ridge rick sen shaw son stad stone thorp tin vik vale wald ward wick worth"
)


def make_names(count: int, rng: random.Random) -> list[str]:
    """Distinct names; while the syllables last, no two people share a last name.

    Args:
        count: How many names, at most `len(FIRST_NAMES) * len(LAST_HEADS) * len(LAST_TAILS)`.
        rng: Source of randomness; equal states give equal names.

    Raises:
        ValueError: More names are asked for than the syllables can make.
    """
    last_names = [head + tail for head in LAST_HEADS for tail in LAST_TAILS]
    if not 0 <= count <= len(FIRST_NAMES) * len(last_names):
        raise ValueError(f"can make 0 to {len(FIRST_NAMES) * len(last_names)} names, {count} were asked for")
    rng.shuffle(last_names)
    firsts = list(FIRST_NAMES)
    rng.shuffle(firsts)
    # Person i takes last name i and first name i, both cyclic; every full cycle of last names shifts
    # the first names by one, so that a pair never comes again.
    names = []
    for i in range(count):
        cycle, slot = divmod(i, len(last_names))
        names.append(f"{firsts[(slot + cycle) % len(firsts)]} {last_names[slot]}")
    return names
