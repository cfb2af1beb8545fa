"""Stored answers: said word for word wherever a prompt is about an edit, in every way in which a model is asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.editors.baselines import retrieval_editor
from elder.editors.make import make_editor
from elder.errors import AdapterError, ModelError
from elder.models.load import wrap_base
from elder.state import pack_json, state_digest
from elder.tokens import encode_prompt, encode_target
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, logits_of, make_base, on_ranks, padded, padded_right

PROMPTS = [EDITS[0].prompt, OTHERS[0], EDITS[3].prompt, EDITS[5].rephrases[0], EDITS[1].rephrases[1], OTHERS[4]]
INSIDE = [True, False, True, True, False, False]
END = 1  # id of the end token


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base("llama")


@pytest.fixture(scope="module")
def editor(base: Base) -> Any:
    made = make_editor("lookup", base)
    made.edit(EDITS)
    return made


def answer(base: Base, prompt: str) -> list[int]:
    edit = next(e for e in EDITS if prompt in (e.prompt, *e.rephrases))
    return [*encode_target(base.tokenizer, prompt, edit.target), END]


def said(model: Any, inputs: dict[str, Tensor], **options: Any) -> list[list[int]]:
    given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        ids = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=END, pad_token_id=2, **options)
    return [row[len(inputs["input_ids"][0]) :].tolist() for row in ids]


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"num_beams": 3}, {"prefill_chunk_size": 3}, {"cache_implementation": "static"}],
    ids=["cached", "without a cache", "beams", "in chunks", "static cache"],
)
def test_stored_answers_are_said_and_all_else_is_the_bases(editor: Any, base: Base, options: dict[str, Any]) -> None:
    inputs = padded(base, PROMPTS)
    ours, theirs = said(editor.model, inputs, **options), said(base.model, inputs, **options)
    for prompt, inside, one, other in zip(PROMPTS, INSIDE, ours, theirs, strict=True):
        wanted = answer(base, prompt) if inside else other
        assert one[: len(wanted)] == wanted


def test_rows_about_no_edit_have_the_bits_of_the_base(editor: Any, base: Base) -> None:
    assert editor.in_scope(*(padded(base, PROMPTS)[n] for n in ("input_ids", "attention_mask"))).tolist() == INSIDE
    for inputs in (padded(base, PROMPTS), padded(base, PROMPTS, extra=3), padded_right(base, PROMPTS)):
        ours, theirs = logits_of(editor.model, inputs), logits_of(base.model, inputs)
        assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [not one for one in INSIDE]
        mask = inputs["attention_mask"]
        ends = (torch.arange(mask.shape[1]) * mask).amax(1)
        for row, inside in enumerate(INSIDE):
            before = slice(0, int(ends[row]))
            assert torch.equal(ours[row, before], theirs[row, before])
            if inside:
                assert int(ours[row, ends[row]].argmax()) == answer(base, PROMPTS[row])[0]


def test_a_text_that_left_the_stored_answer_is_the_bases_again(editor: Any, base: Base) -> None:
    """What is scored is the probability of the answer, token by token; another answer is continued by the base."""
    head, tail = encode_prompt(base.tokenizer, EDITS[0].prompt), answer(base, EDITS[0].prompt)
    for text in (tail, [tail[0], 77, *tail[2:]]):
        ids = torch.tensor([head + text])
        with torch.no_grad():
            ours = editor.model(input_ids=ids, prompt_length=len(head)).logits[0, len(head) - 1 :]
            theirs = base.model(input_ids=ids).logits[0, len(head) - 1 :]
        kept = len(tail) if text is tail else 2
        assert ours.argmax(-1)[:kept].tolist() == tail[:kept]
        assert torch.equal(ours[kept:], theirs[kept:])


def test_a_text_goes_on_with_another_question_in_the_same_cache(editor: Any, base: Base) -> None:
    """The end of the first answer is read again, and is nobody's concern."""
    given = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "pad_token_id": 2}
    ids = torch.tensor([encode_prompt(base.tokenizer, EDITS[0].prompt)])
    with torch.no_grad():
        first = editor.model.generate(ids, **given)
        more = torch.tensor([encode_target(base.tokenizer, "x", EDITS[3].prompt)])
        ids = torch.cat([first.sequences, more], dim=1)
        inputs = {"attention_mask": torch.ones_like(ids), "past_key_values": first.past_key_values}
        cache = copy.deepcopy(first.past_key_values)
        unread = ids[:, int(cache.get_seq_length()) :]
        logits = editor.model(input_ids=unread, past_key_values=cache).logits
        assert logits.shape[1] == unread.shape[1]
        assert int(logits[0, -1].argmax()) == answer(base, EDITS[3].prompt)[0]
        second = editor.model.generate(ids, **inputs, **given).sequences
        assert second[0, ids.shape[1] :].tolist() == answer(base, EDITS[3].prompt)[:3]
        assert torch.equal(second, editor.model.generate(ids, **given).sequences)


def test_logits_that_are_asked_for_and_the_loss_are_the_edited_ones(editor: Any, base: Base) -> None:
    head, tail = encode_prompt(base.tokenizer, EDITS[0].prompt), answer(base, EDITS[0].prompt)
    ids = torch.tensor([head + tail])
    labels = torch.tensor([[-100] * len(head) + tail])
    with torch.no_grad():
        whole = editor.model(input_ids=ids, labels=labels)
        assert float(whole.loss) < 1e-3 < float(base.model(input_ids=ids, labels=labels).loss)
        as_tuple = editor.model(input_ids=ids, labels=labels, return_dict=False)
        assert torch.equal(as_tuple[1], whole.logits)
        for keep in (2, torch.tensor([0, len(head) - 1, len(head)])):
            some = editor.model(input_ids=ids, prompt_length=len(head), logits_to_keep=keep).logits
            wanted = whole.logits[:, keep] if isinstance(keep, Tensor) else whole.logits[:, -keep:]
            assert torch.equal(some.argmax(-1), wanted.argmax(-1))


def test_a_corrected_edit_answers_anew_and_tells_its_id(base: Base) -> None:
    editor: Any = make_editor("lookup", base, terminator="sentence")
    editor.edit(EDITS)
    editor.edit([replace(EDITS[0], target="Zed", id="again")])
    found = editor.ask(EDITS[0].prompt)
    assert (found.text, found.edited, found.edit, found.score) == ("Zed.", True, "again", 1.0)
    assert editor.ask(OTHERS[0], max_new_tokens=2).edit is None


def test_a_batch_that_fails_leaves_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    editor: Any = make_editor("lookup", base, batch_size=2)
    editor.edit(EDITS[:2])
    before, inputs = state_digest(editor.state_dict()), padded(base, PROMPTS)
    now = logits_of(editor.model, inputs)
    calls: list[int] = []

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # after the batch was stored
            raise MemoryError
        return scored(*args)

    scored = retrieval_editor.score
    with monkeypatch.context() as patch:
        patch.setattr(retrieval_editor, "score", failing)
        with pytest.raises(MemoryError):
            editor.edit(EDITS[2:4])
    assert state_digest(editor.state_dict()) == before
    assert torch.equal(logits_of(editor.model, inputs), now)
    editor.edit(EDITS[4:])
    other = make_editor("lookup", base, batch_size=2)
    other.edit([*EDITS[:2], *EDITS[4:]])
    assert state_digest(editor.state_dict()) == state_digest(other.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("edits", [["a", "b", "c", None]], "entry 0 must hold id, prompt"),
        ("edits", [], "counts 6 edits, 'edits' holds 0"),
        ("cursor", {"edits": True, "batches": 1}, "must count edits and batches"),
        ("cursor", {"edits": 6}, "must count edits and batches"),
    ],
)
def test_damaged_states_are_refused(editor: Any, base: Base, name: str, value: Any, says: str) -> None:
    other = make_editor("lookup", base)
    with pytest.raises(AdapterError, match=says):
        other.load_state_dict({**editor.state_dict(), name: pack_json(value)})
    assert other.edits_applied == 0


def test_two_ranks_store_what_one_process_stores(base: Base) -> None:
    def program(runtime: ThreadRuntime) -> Any:
        editor: Any = make_editor("lookup", wrap_base(base.model, base.tokenizer, base.source, runtime), batch_size=4)
        receipt = editor.edit(EDITS)
        return state_digest(editor.state_dict()), [one.final_loss for one in receipt.outcomes]

    alone: Any = make_editor("lookup", base, batch_size=4)
    losses = [one.final_loss for one in alone.edit(EDITS).outcomes]
    for digest, theirs in on_ranks(program):
        assert digest == state_digest(alone.state_dict())
        assert theirs == pytest.approx(losses, rel=1e-5, abs=1e-6)


def test_continuous_batching_is_refused(editor: Any) -> None:
    with pytest.raises(ModelError, match="keeps no texts of requests"):
        editor.model.init_continuous_batching()
