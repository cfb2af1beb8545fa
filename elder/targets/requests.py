"""Edits as token rows of a locate-then-edit method: where the subject ends, what must follow the prompt.

Knows the tokenizer; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from elder.edit import Edit
from elder.errors import DataError
from elder.forward.upper import ValueRow
from elder.mixture.subject import subject_tokens
from elder.tokens import encode_prompt, encode_target

SUBJECT_LAST = "subject_last"
ESSENCE = "{} is a"  # the text whose continuation must not change, ROME section 3.1


def subject_end(tokenizer: PreTrainedTokenizerBase, text: str, subject: str) -> int:
    """Index of the last token of the subject's last occurrence in the encoded text, by character offsets.

    Raises:
        DataError: The subject does not stand in the text.
    """
    found = subject_tokens(tokenizer, text, subject)
    if not found:
        raise DataError(f"the subject '{subject}' does not stand in the prompt '{text}'")
    return found[-1]


def fact_token(tokenizer: PreTrainedTokenizerBase, text: str, subject: str, where: str) -> int:
    """Index of the token at which a fact is written: `subject_last`, or `last` for the last one of the text.

    Raises:
        DataError: The subject is asked for and does not stand in the text.
    """
    return subject_end(tokenizer, text, subject) if where == SUBJECT_LAST else len(encode_prompt(tokenizer, text)) - 1


def check_subjects(edits: Sequence[Edit]) -> None:
    """Every edit must name a subject that stands in its prompt.

    Raises:
        DataError: All edits for which that is not so.
    """
    problems = []
    for edit in edits:
        if not edit.subject:
            problems.append(f"edit {edit.id}: has no subject; this method writes at the subject's last token")
        elif edit.subject not in edit.prompt:
            problems.append(f"edit {edit.id}: the subject '{edit.subject}' does not stand in '{edit.prompt}'")
    if problems:
        raise DataError(problems)


def rewriting_row(
    tokenizer: PreTrainedTokenizerBase, number: int, edit: Edit, context: str, where: str = SUBJECT_LAST
) -> ValueRow:
    """Context, prompt and all tokens of the target but the last; the target's tokens are wanted.

    Args:
        tokenizer: The base model's.
        number: Number of the edit in its batch.
        edit: An edit whose subject stands in its prompt.
        context: A text with one `{}` for the prompt.
        where: See `fact_token`.
    """
    prompt = context.replace("{}", edit.prompt, 1)
    head, answer = encode_prompt(tokenizer, prompt), encode_target(tokenizer, prompt, edit.target)
    places = tuple(range(len(head) - 1, len(head) - 1 + len(answer)))
    end = fact_token(tokenizer, prompt, str(edit.subject), where)
    return ValueRow(number, (*head, *answer[:-1]), end, places, tuple(answer))


def essence_row(
    tokenizer: PreTrainedTokenizerBase, number: int, edit: Edit, at_end: bool, where: str = SUBJECT_LAST
) -> ValueRow:
    """`SUBJECT is a`; its distribution is compared after the token that is changed, or `at_end` of the text."""
    text = ESSENCE.replace("{}", str(edit.subject))
    ids = tuple(encode_prompt(tokenizer, text))
    end = fact_token(tokenizer, text, str(edit.subject), where)
    return ValueRow(number, ids, end, (len(ids) - 1 if at_end else end,))


def prompt_row(
    tokenizer: PreTrainedTokenizerBase, number: int, edit: Edit, context: str, where: str = SUBJECT_LAST
) -> ValueRow:
    """Context and prompt up to the token at which the fact is written: all that a key depends on."""
    prompt = context.replace("{}", edit.prompt, 1)
    end = fact_token(tokenizer, prompt, str(edit.subject), where)
    return ValueRow(number, tuple(encode_prompt(tokenizer, prompt)[: end + 1]), end, (end,))
