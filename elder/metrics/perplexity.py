"""Perplexity on a fixed text, as an alarm: edits must not cost the model its command of plain prose.

The text was written for this project. Knows nothing of edits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from elder.metrics.scoring import Pair, TokenScores

WINDOW = 256  # tokens of a window at most, so that small contexts and large models see the same protocol

TEXT = """\
The harbour wakes before the town does. Long before the first shop has opened its shutters, men in heavy
jackets walk along the quay, count the crates that came in during the night, and talk about the weather.
The wind has turned to the west, which means rain by noon and a rough sea until the evening. Nobody is
surprised. In this part of the coast the sky changes its mind three times a day, and people have learned to
carry a coat even when the sun is shining.

Behind the harbour the streets climb steeply to the old market. On Thursdays farmers bring apples, cheese and
eggs, and in autumn there are mushrooms that were picked in the woods above the river. An old woman sells
honey from a folding table. She knows every customer by name and asks after their children, their gardens and
their bad knees. When a stranger stops, she lets him taste a little from a wooden spoon, and he usually goes
home with two jars instead of one.

The school stands at the top of the hill. From its windows the pupils can see the lighthouse and, on clear
days, the long grey line of the islands. Their teacher says that a good question is worth more than a quick
answer. Once a month she takes the class down to the beach, where they measure the tide with painted sticks
and write the numbers in a book that was begun by her own teacher, many years ago. The first pages are yellow
and hard to read, but the water still rises and falls in the same slow rhythm, and the children like to
compare their figures with those of people who are now grandparents.

In the evening the boats return. The lamps along the quay are lit one after another, the gulls quarrel over
what has been left on the stones, and somewhere a radio plays a song that everybody knows. By ten o'clock the
town is quiet again, and only the light on the rocks goes on turning, as it has done for more than a century.
"""


@dataclass(frozen=True, slots=True)
class Window:
    """One forward over a stretch of text: `context` is read, then `scored` is predicted token by token."""

    context: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def pair(self) -> Pair:
        """The window as a scoring request."""
        return Pair(self.context, self.scored)


def windows(tokenizer: PreTrainedTokenizerBase, text: str, context: int | None) -> list[Window]:
    """Cut a text into overlapping windows; every token behind the first half window is scored once.

    A window is at most `WINDOW` tokens (or the context of the model, if that is less) and moves on by
    half of that: its second half is scored, the first half is what the model may look back at. So every
    scored token has at least half a window before it, and an editor that routes by the end of the prompt
    has real text to route by, in the first window too.

    BOS policy: when the tokenizer puts a BOS token in front of texts, every window begins with one; it
    counts towards the width and is never scored.

    Raises:
        ValueError: The text has fewer than two tokens.
    """
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if len(ids) < 2:
        raise ValueError("a perplexity needs a text of at least two tokens")
    bos = _bos(tokenizer)
    width = min(WINDOW, context or WINDOW, len(ids) + len(bos)) - len(bos)
    stride = max(1, width // 2)
    look_back = width - stride
    return [
        Window((*bos, *ids[start : start + look_back]), tuple(ids[start + look_back : start + width]))
        for start in range(0, len(ids) - look_back, stride)
    ]


def perplexity(scores: Sequence[TokenScores]) -> float:
    """The exponential of the mean negative log likelihood over all scored tokens of all windows."""
    nlls = [nll for one in scores for nll in one.nlls]
    return math.exp(min(sum(nlls) / len(nlls), 700.0))


def _bos(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The BOS token in a tuple if the tokenizer puts it in front of texts, else nothing."""
    ids = list(tokenizer("a")["input_ids"])
    bos = tokenizer.bos_token_id
    return (int(bos),) if bos is not None and len(ids) > 1 and ids[0] == bos else ()
