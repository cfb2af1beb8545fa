"""Fluency as the variety of a text's word n-grams: a text that repeats itself scores low.

Pure functions on text. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections import Counter

NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # ROME's weights of bigrams and trigrams, averaged over the two


def entropy(words: list[str], n: int) -> float:
    """Entropy in bits of the distribution of n-grams of a text; 0 when it has none."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def ngram_entropy(text: str) -> float:
    """Weighted mean of bigram and trigram entropy in bits, H2/3 + 2*H3/3.

    ROME's "generation entropy" (2202.05262, appendix) reports 100 times this value, over text that
    includes the prompt; ours is the continuation alone, and words are split at white space.
    """
    words = text.split()
    return sum(weight * entropy(words, n) for n, weight in NGRAM_WEIGHTS.items()) / len(NGRAM_WEIGHTS)
