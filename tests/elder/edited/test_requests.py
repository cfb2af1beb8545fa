"""Decodings by turns on one edited model: each says what it says alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.elder.edited.talk import INSIDE, OUTSIDE, PROMPTS, Alone, Session, inputs_of, said
from tests.elder.tiny import FAMILIES, METHODS

EXAMPLES = 12
MORE = 4
# The same examples in every run; `--hypothesis-seed` has no say. Looked at beyond them by hand, with more examples.
steady = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)


def scope(editor: Any, prompts: list[str]) -> list[bool]:
    return editor.in_scope(**inputs_of(editor.base, prompts)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_prompts_of_these_tests_are_what_they_are_called(
    loud_of: Callable[..., Any], alone_of: Callable[..., Alone], method: str, family: str
) -> None:
    """In scope the answer is another than the base model's, so that a route that is lost or mixed up shows."""
    editor, alone = loud_of(method, family), alone_of(method, family)
    assert scope(editor, INSIDE) == [True] * len(INSIDE)
    assert not all(scope(editor, OUTSIDE))
    base = Alone(editor.base, editor.base.model)
    for prompt, inside in zip(PROMPTS, scope(editor, PROMPTS), strict=True):
        assert (alone(prompt, MORE) != base(prompt, MORE)) == inside, prompt


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two to four sessions: prompts, size of the pieces that a prompt is read in, and how its end is told."""
    made = []
    for _ in range(draw(st.integers(2, 4))):
        prompts = draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3))
        chunk = draw(st.one_of(st.just(0), st.integers(1, 24)))
        made.append({"prompts": prompts, "chunk": chunk, "how": draw(st.sampled_from(["length", "mask", "around"]))})
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@steady
@given(wanted=conversations(), data=st.data())
def test_any_interleaving_of_decodings(
    loud_of: Callable[..., Any],
    alone_of: Callable[..., Alone],
    method: str,
    family: str,
    wanted: list[dict[str, Any]],
    data: st.DataObject,
) -> None:
    editor, alone = loud_of(method, family), alone_of(method, family)
    sessions = [Session(editor, more=MORE, **options) for options in wanted]
    turns = [number for number, session in enumerate(sessions) for _ in range(session.passes())]
    runs = [session.run() for session in sessions]
    for turn in data.draw(st.permutations(turns), "turns"):
        next(runs[turn])
    for session, run in zip(sessions, runs, strict=True):
        assert next(run, "done") == "done"
        assert session.said() == alone.each(session.prompts, MORE)
        check_bits(editor, session)


def check_bits(editor: Any, session: Session) -> None:
    """Rows out of scope are the base model's, to the bit, read in the same way.

    Where the whole prompt is corrected, it is read once more when its end has come, so read in one piece.
    """
    chunk = session.width if editor.edits.version.deferral.whole else session.chunk
    outside = ~editor.in_scope(**session.inputs)
    for ours, theirs in zip(session.logits, session.base_logits(chunk), strict=True):
        assert torch.equal(ours[outside], theirs[outside])
        assert not bool((ours == theirs).all(-1)[~outside].any())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_two_cached_decodings_by_turns(
    loud_of: Callable[..., Any], alone_of: Callable[..., Alone], method: str, family: str
) -> None:
    """The first thing that a server does."""
    editor, alone = loud_of(method, family), alone_of(method, family)
    sessions = [Session(editor, [prompt], more=8, how="not") for prompt in PROMPTS]
    runs = [session.run() for session in sessions]
    while runs:
        runs = [run for run in runs if next(run, "done") != "done"]
    for session in sessions:
        assert session.said() == alone.each(session.prompts, 8)
        check_bits(editor, session)


@pytest.mark.parametrize("method", METHODS)
def test_requests_between_the_passes_of_another(
    loud_of: Callable[..., Any], alone_of: Callable[..., Alone], method: str
) -> None:
    """Whole generations, passes without a cache and the base model, all between two passes of one decoding."""
    editor, alone = loud_of(method, "llama"), alone_of(method, "llama")
    session = Session(editor, [INSIDE[0], OUTSIDE[0]], more=5, chunk=5)
    for number, _ in enumerate(session.run()):
        prompts = [PROMPTS[number % len(PROMPTS)], PROMPTS[(3 * number + 1) % len(PROMPTS)]]
        assert said(editor.model, inputs_of(editor.base, prompts), MORE) == alone.each(prompts, MORE)
        with torch.no_grad():
            editor.model(**inputs_of(editor.base, prompts[:1]), use_cache=False)
        with editor.model.without_edits():
            said(editor.model, inputs_of(editor.base, prompts), 2)
    assert session.said() == alone.each(session.prompts, 5)
