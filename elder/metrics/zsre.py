"""The scores of zsRE in the line of MEMIT, and MALMEN's ES, GS, LS, which are the same share of tokens.

Teacher-forced and token by token, so they are easier than `forced`, which wants every token, and say nothing about what
the model would say by itself. Pure functions; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

from elder.edit import Edit

IGNORED = -100


def token_accuracy(argmax: Sequence[int], labels: Sequence[int]) -> float:
    """Share of the labels that are the most likely token; labels of -100 are no labels.

    Raises:
        ValueError: There is no label, or the lengths differ.
    """
    judged = [said == label for said, label in zip(argmax, labels, strict=True) if label != IGNORED]
    if not judged:
        raise ValueError("token accuracy of no tokens")
    return sum(judged) / len(judged)


def asked(edit: Edit) -> list[tuple[str, str, str]]:
    """(figure, prompt, answer): the prompt, its held-out rephrases, and unrelated prompts with a known answer."""
    found = [("zsre.efficacy", edit.prompt, edit.target)]
    found += [("zsre.paraphrase", text, edit.target) for text in edit.heldout_rephrases]
    return found + [("zsre.specificity", p.prompt, p.answer) for p in edit.locality if p.answer is not None]
