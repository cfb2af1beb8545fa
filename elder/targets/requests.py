"""Edits as token rows of a locate-then-edit method: where the subject ends, what must follow the prompt.

Knows how texts are encoded; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

from elder.edit import Edit
from elder.errors import DataError
from elder.forward.value_row import ValueRow
from elder.mixture.subject import subject_tokens
from elder.subjects import find_subject
from elder.tokens import Texts, encode_prompt, encode_target, format_of

SUBJECT_LAST = "subject_last"
ESSENCE = "{} is a"  # the text whose continuation must not change, ROME section 3.1


def subject_end(texts: Texts, text: str, subject: str | None, known: int | None = None) -> int:
    """Index of the last token of the subject in the encoded text, by character offsets.

    Args:
        texts: How the text is encoded.
        text: Where the subject stands; the last of several occurrences counts.
        subject: See `elder.subjects.find_subject`.
        known: Where it begins in the text, if the dataset says so.

    Raises:
        DataError: The subject does not stand in the text.
    """
    found = subject_tokens(texts, text, subject, known)
    if not found:
        raise DataError(f"the subject '{subject}' does not stand in the prompt '{text}'")
    return found[-1]


def fact_token(texts: Texts, text: str, subject: str | None, where: str, known: int | None = None) -> int:
    """Index of the token at which a fact is written: `subject_last`, or `last` for the last one of the text.

    Raises:
        DataError: The subject is asked for and does not stand in the text.
    """
    return subject_end(texts, text, subject, known) if where == SUBJECT_LAST else len(encode_prompt(texts, text)) - 1


def subject_problem(edit: Edit) -> str | None:
    """Why a fact cannot be written at the subject of an edit, in words; None where it can."""
    if not edit.subject:
        return f"edit {edit.id}: has no subject; this method writes at the subject's last token"
    if find_subject(edit.prompt, edit.subject, edit.subject_at) is None:
        return f"edit {edit.id}: the subject '{edit.subject}' does not stand in '{edit.prompt}'"
    return None


def check_subjects(edits: Sequence[Edit]) -> None:
    """Every edit must name a subject that stands in its prompt.

    Raises:
        DataError: All edits for which that is not so.
    """
    problems = [problem for edit in edits if (problem := subject_problem(edit))]
    if problems:
        raise DataError(problems)


def rewriting_row(texts: Texts, number: int, edit: Edit, context: str, where: str = SUBJECT_LAST) -> ValueRow:
    """Context, prompt and all tokens of the target but the last; the target's tokens are wanted.

    Args:
        texts: How the base model's texts are encoded.
        number: Number of the edit in its batch.
        edit: An edit; with `subject_last`, its subject stands in its prompt.
        context: A text with one `{}` for the prompt.
        where: See `fact_token`.
    """
    prompt, end = _behind(texts, edit, context, where)
    head, answer = encode_prompt(texts, prompt), encode_target(texts, prompt, edit.target)
    places = tuple(range(len(head) - 1, len(head) - 1 + len(answer)))
    return ValueRow(number, (*head, *answer[:-1]), end, places, tuple(answer))


def essence_row(texts: Texts, number: int, edit: Edit, at_end: bool, where: str = SUBJECT_LAST) -> ValueRow:
    """`SUBJECT is a`; its distribution is compared at the token that is changed, or `at_end` of the text.

    An edit that names no subject has its prompt in that place. The text is no prompt of a user: no chat template is
    put around it.
    """
    plain = format_of(texts).tokenizer
    text = ESSENCE.replace("{}", edit.subject or edit.prompt)
    ids = tuple(encode_prompt(plain, text))
    end = fact_token(plain, text, edit.subject, where, 0)
    return ValueRow(number, ids, end, (len(ids) - 1 if at_end else end,))


def prompt_row(texts: Texts, number: int, edit: Edit, context: str, where: str = SUBJECT_LAST) -> ValueRow:
    """Context and prompt up to the token at which the fact is written: all that a key depends on."""
    prompt, end = _behind(texts, edit, context, where)
    return ValueRow(number, tuple(encode_prompt(texts, prompt)[: end + 1]), end, (end,))


def _behind(texts: Texts, edit: Edit, context: str, where: str) -> tuple[str, int]:
    """The prompt of an edit within a context, and the index of the token at which the fact is written."""
    form = format_of(texts)
    known = find_subject(edit.prompt, edit.subject, edit.subject_at)
    begin = None if known is None else context.index("{}") + known[0]
    prompt = form.within(context, edit.prompt)
    return prompt, fact_token(texts, prompt, edit.subject, where, begin)
