"""Which facts a base model knows: asked by the prompt of an edit, it gives the old answer by itself.

Knows nothing of stages or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elder.base import Base
from elder.edit import Edit
from elder.metrics.generation import Decoder, generate
from elder.metrics.text import normalise
from elder.tokens import encode_prompt, encode_target

CHUNK = 256  # most prompts asked before it is decided whether there are enough
PER_FACT = 2  # prompts asked for each fact that is still wanted


@dataclass(frozen=True)
class KnownFacts:
    """What came of asking a base model about a stream of edits.

    Attributes:
        kept: Indices of the edits whose old answer the model gives, in order.
        said: Index -> what the model said, of the other edits that were asked about.
        asked: How many edits were asked about, from the first on.
    """

    kept: tuple[int, ...]
    said: dict[int, str]
    asked: int


def known_facts(
    base: Base,
    edits: Sequence[Edit],
    wanted: int | None,
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> KnownFacts:
    """Ask a base model about edits, in their order, until enough facts are found that it knows. Collective.

    Args:
        base: Asked greedily, through its chat template if it has one.
        edits: With their old answers; one without is not known.
        wanted: Enough; None: all edits are asked about.
        max_new_tokens: Longest answer in tokens; a longer old answer gets more room.
        batch_size: Most prompts in one forward.
        progress: Called with (edits asked about, edits in all).
    """
    kept: list[int] = []
    said: dict[int, str] = {}
    asked = 0
    while asked < len(edits) and (wanted is None or len(kept) < wanted):
        chunk = CHUNK if wanted is None else min(CHUNK, PER_FACT * (wanted - len(kept)))
        for answer in _answers(base, edits[asked : asked + chunk], max_new_tokens, batch_size):
            if wanted is not None and len(kept) == wanted:
                break
            edit = edits[asked]
            if edit.ground_truth and gives(answer, edit.prompt, edit.ground_truth, base.chat is not None):
                kept.append(asked)
            else:
                said[asked] = answer
            asked += 1
        if progress is not None:
            progress(asked, len(edits))
    return KnownFacts(tuple(kept), said, asked)


def gives(answer: str, prompt: str, truth: str, chat: bool) -> bool:
    """Whether an answer of a model gives the old answer, normalised as for exact match.

    It begins with it, whatever the model goes on to say. In a chat it may first say the prompt again, or be a whole
    sentence, the first of the answer, that holds it.

    Args:
        answer: Up to the end of its line.
        prompt: What was asked.
        truth: The old answer.
        chat: The prompt went through a chat template.
    """
    wanted, found = normalise(truth).split(), normalise(answer).split()
    if not wanted:
        return answer.strip().startswith(truth.strip())
    if found[: len(wanted)] == wanted:
        return True
    if not chat:
        return False
    words = normalise(_first_sentence(answer, truth)).split()
    asked = normalise(prompt).split()
    if words[: len(asked)] == asked:
        return words[len(asked) : len(asked) + len(wanted)] == wanted
    return any(words[begin : begin + len(wanted)] == wanted for begin in range(len(words)))


def _first_sentence(answer: str, truth: str) -> str:
    """Up to the first full stop that a space follows; those of the old answer itself (`Washington, D.C.`) end none."""
    begin = answer.find(truth)
    after = answer.find(". ", 0 if begin < 0 else begin + len(truth))
    first = answer.find(". ")
    if begin >= 0 and first >= begin:
        first = after
    return answer if first < 0 else answer[: first + 1]


def _answers(base: Base, edits: Sequence[Edit], max_new_tokens: int, batch_size: int) -> list[str]:
    prompts = [encode_prompt(base.texts, edit.prompt) for edit in edits]
    context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    needed = max(len(encode_target(base.texts, edit.prompt, edit.ground_truth or "")) for edit in edits)
    # In a chat the model may say the prompt again before it answers.
    again = max(len(base.tokenizer(edit.prompt)["input_ids"]) for edit in edits) if base.chat is not None else 0
    limit = max(max_new_tokens, needed + again)
    decoder = Decoder.to_stop(base.texts, limit, batch_size, context)
    return [said.text for said in generate(base.model, prompts, decoder, base.runtime)]
