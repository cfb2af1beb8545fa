"""What is particular to elder-plus: keys, thresholds, replay, the last word."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.errors import ModelError
from elder.mixture.keys import late_interaction
from elder.state import state_digest
from tests.elder.tiny import EDITS, OPTIONS, OTHERS, logits_of, padded, states_of

LEARNT = [e.prompt for e in EDITS[:4]]


def plus(base: Base, **options: Any) -> Any:
    return make_editor("elder-plus", base, **{**OPTIONS["elder-plus"], **options})


def scope(editor: Any, prompts: list[str]) -> list[bool]:
    inputs = padded(editor.base, prompts)
    return editor.in_scope(inputs["input_ids"], inputs["attention_mask"]).tolist()


def owners(editor: Any, prompts: list[str]) -> list[int]:
    """Which stored edit each prompt matches best."""
    inputs = padded(editor.base, prompts)
    return editor.routes(inputs["input_ids"], inputs["attention_mask"]).owner.tolist()


def answer(editor: Any, prompt: str, length: int) -> str:
    inputs = padded(editor.base, [prompt])
    said = editor.model.generate(**inputs, max_new_tokens=length, do_sample=False)
    return editor.base.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])


# ---- keys and gate ---------------------------------------------------------------------------------------------------


def test_training_wordings_match_their_own_edit(base: Base) -> None:
    editor = plus(base)
    editor.edit(EDITS[:4])
    wordings = [text for edit in EDITS[:4] for text in edit.training_prompts]
    assert scope(editor, wordings) == [True] * 8
    assert owners(editor, wordings) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert scope(editor, list(OTHERS)) == [False] * len(OTHERS)


def test_subject_keys_are_the_subjects_tokens(base: Base) -> None:
    editor = plus(base)
    editor.edit(EDITS[:2])
    assert editor.keys.real[0, 0].sum() == len("Arlo")
    assert editor.keys.real[1, 0].sum() == len("Brend")
    inputs = padded(base, ["The river of Arlo is"])
    states = base.model.get_input_embeddings()(inputs["input_ids"])[0]  # subject_layer 0
    ids = inputs["input_ids"][0].tolist()
    first = base.tokenizer.decode(ids).index("Arlo") - (len("<s>") - 1 if ids[0] == 0 else 0)
    unit = editor.keys.unit(states, editor.keys.subject_center)
    torch.testing.assert_close(editor.keys.subject[0, 0, :4], unit[first : first + 4], atol=2e-3, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("subject", [None, "Nowhere"])
def test_a_subject_missing_in_the_prompt_falls_back_to_three_tokens(
    base: Base, subject: str | None, batch_size: int
) -> None:
    editor = plus(base, batch_size=batch_size)
    editor.edit([Edit(e.prompt, e.target, subject=subject, rephrases=e.rephrases) for e in EDITS[:3]])
    assert (editor.keys.real[:, 0].sum(-1) == 3).all()
    assert scope(editor, LEARNT[:3]) == [True] * 3
    assert owners(editor, LEARNT[:3]) == [0, 1, 2]


def test_long_subjects_keep_their_last_tokens(base: Base) -> None:
    editor = plus(base, subject_tokens=3)
    editor.edit([Edit("The river of Great Arlo is", "Tam", subject="Great Arlo")])
    assert editor.keys.subject.shape[2] == 3
    assert (editor.keys.real.sum(-1)[:, :3] == 3).all()


def test_the_subject_must_match_as_well_as_the_question(base: Base) -> None:
    editor = plus(base, subject_threshold=0.95, answer_threshold=-1.0)
    editor.edit(EDITS[:4])
    assert scope(editor, ["The river of Zzyx is", "Arlo"]) == [False, True]
    lax = plus(base, subject_threshold=-1.0, answer_threshold=0.95)
    lax.edit(EDITS[:4])
    assert scope(lax, LEARNT) == [True] * 4
    assert scope(lax, list(OTHERS)) == [False] * len(OTHERS)
    both = plus(base)
    both.edit(EDITS[:4])
    assert scope(both, ["The river of Zzyx is", "Arlo", LEARNT[0]]) == [False, False, True]


def test_a_subject_that_was_only_mentioned_is_out_of_scope(base: Base) -> None:
    lax = {"subject_threshold": 0.9, "answer_threshold": -1.0}
    texts = [
        "The river of Arlo is",
        "We spoke of Arlo. Much later, and on another day, the river of Zzyx is",
        "The river of Arloson is",
    ]
    former = plus(base, **lax, distance=None, whole_words=False)
    former.edit(EDITS[:4])
    assert scope(former, texts) == [True, True, True]
    near = plus(base, **lax, whole_words=False)
    near.edit(EDITS[:4])
    assert scope(near, texts) == [True, False, True]
    strict = plus(base, **lax)
    strict.edit(EDITS[:4])
    assert scope(strict, texts) == [True, False, False]
    again = plus(base, **lax)
    again.load_state_dict(strict.state_dict())
    assert scope(again, texts) == [True, False, False]


def test_fixed_thresholds_win_over_calibrated_ones(base: Base) -> None:
    editor = plus(base, subject_threshold=0.2, answer_threshold=None)
    editor.edit(EDITS[:4])
    assert editor.thresholds == (0.2, editor.gates["answer"].threshold)
    assert editor.gates["subject"].wanted
    calibrated = plus(base, subject_threshold=None, answer_threshold=None)
    assert calibrated.thresholds == (0.75, 0.3)
    calibrated.edit([Edit(e.prompt, e.target, subject=e.subject) for e in EDITS])
    assert calibrated.thresholds == (calibrated.gates["subject"].threshold, calibrated.gates["answer"].threshold)
    assert calibrated.thresholds != (0.75, 0.3)


def test_calibration_compares_wordings_with_their_own_edit_and_with_others(base: Base) -> None:
    editor = plus(base, batch_size=4, prefixes=0)
    editor.edit(EDITS[:4])
    keys = editor.keys
    assert len(editor.gates["subject"].wanted) == 4  # one rephrase for each edit
    for i in range(4):
        inputs = padded(base, [EDITS[i].training_prompts[1]])
        states = base.model.get_input_embeddings()(inputs["input_ids"])  # subject_layer 0
        tokens, real = keys.unit(states, keys.subject_center), inputs["attention_mask"].bool()
        same = late_interaction(tokens, real, keys.subject[i : i + 1, [0, -1]], keys.real[i : i + 1, [0, -1]])
        others = [j for j in range(4) if j != i]
        far = late_interaction(tokens, real, keys.subject[others], keys.real[others])
        assert editor.gates["subject"].wanted[i] == pytest.approx(float(same), abs=2e-3)
        assert editor.gates["subject"].unwanted[i] == pytest.approx(float(far.max()), abs=2e-3)


def test_wide_models_have_projected_keys_and_still_tell_edits_apart(base: Base) -> None:
    editor = plus(base, key_width=12)
    editor.edit(EDITS[:4])
    assert editor.keys.subject.shape[-1] == editor.router.weight.shape[1] == 12
    assert owners(editor, LEARNT) == [0, 1, 2, 3]


def test_matched_edits_use_their_own_allocation(base: Base) -> None:
    editor = plus(base)
    editor.edit(EDITS[:4])
    assert editor.allocation.shape == (4, 2, 6)
    assert (editor.allocation.sum(-1) == 2).all()
    assert len({tuple(row.flatten().tolist()) for row in editor.allocation}) == 4  # batches draw anew, not again
    inputs = padded(base, [LEARNT[2], OTHERS[0], LEARNT[0]])
    routes = editor.routes(inputs["input_ids"], inputs["attention_mask"])
    assert routes.inside.tolist() == [True, False, True]
    for row, owner in ((0, 2), (2, 0)):
        assert torch.equal(routes.gates[row], editor.allocation[owner].float() / 2)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_keys_are_not_centred_on_the_only_edits_there_are(base: Base, count: int) -> None:
    """A key that is nothing but rounding matches nothing, or anything."""
    editor = plus(base, batch_size=count, prefixes=0)
    bare = [Edit(e.prompt, e.target) for e in EDITS[:count]]
    editor.edit(bare)
    torch.testing.assert_close(editor.keys.answers.norm(dim=-1), torch.ones(count, 5), atol=2e-3, rtol=0)
    inputs = padded(base, [bare[0].prompt])
    last = states_of(base.model, inputs)[editor.layers[0]][:, -1]
    assert float((last - editor.keys.answer_center).norm() / last.norm()) > 0.1
    assert scope(editor, [e.prompt for e in bare]) == [True] * count
    assert scope(editor, list(OTHERS)) == [False] * len(OTHERS)


def test_a_gate_that_hardly_tells_questions_apart_warns(base: Base) -> None:
    editor = plus(base, answer_threshold=0.9)
    editor.edit(EDITS[:3])
    editor.gates["answer"].unwanted = [0.1] * 900 + [0.95] * 100
    calm = editor.edit(EDITS[3:4])
    assert (calm.warnings, 0.05 < calm.notes["answer_passing"] < 0.2) == ((), True)
    editor.gates["answer"].unwanted = [0.1] * 700 + [0.95] * 300
    receipt = editor.edit(EDITS[4:5])
    assert receipt.notes["answer_passing"] > 0.2
    assert "hardly tells questions apart" in receipt.warnings[0]


def test_the_keys_of_a_stream_do_not_depend_on_its_batches(base: Base) -> None:
    whole, single = (plus(base, batch_size=size, steps=1, extra_steps=0) for size in (5, 1))
    whole.edit(EDITS[:5])
    single.edit(EDITS[:5])
    torch.testing.assert_close(whole.keys.answers, single.keys.answers, atol=5e-3, rtol=0)  # stored in half precision
    other = plus(base, batch_size=5, steps=1, extra_steps=0, center="first")
    other.edit(EDITS[:5])
    assert float((other.keys.answers - whole.keys.answers).abs().max()) > 0.05


def test_keys_are_finite_where_all_plain_sentences_are_one_text(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a tokenizer that knows none of their words."""
    monkeypatch.setattr("elder.editors.mixture.key_extraction.SENTENCES", ("The same.",) * 4)
    editor = plus(base)
    editor.edit(EDITS[:2])
    assert bool(editor.keys.answer.isfinite().all())
    assert scope(editor, [edit.prompt for edit in EDITS[:2]]) == [True, True]


# ---- the last word ---------------------------------------------------------------------------------------------------


def test_the_last_word_about_a_prompt_counts(base: Base) -> None:
    editor = plus(base, batch_size=1, steps=60, rank=8, prefixes=0)
    first, second = Edit(LEARNT[0], "Tam", subject="Arlo"), Edit(LEARNT[0], "Ob", subject="Arlo")
    editor.edit([first])
    assert answer(editor, LEARNT[0], 4) == " Tam"
    editor.edit([EDITS[1]])
    receipt = editor.edit([second])
    assert "replaces" in receipt.outcomes[0].note
    assert owners(editor, [LEARNT[0]]) == [2]
    assert answer(editor, LEARNT[0], 3) == " Ob"
    assert {row.owner for row in editor.ledger.rows} == {1, 2}
    again = editor.edit([Edit(LEARNT[0], "Ub", subject="Arlo")])
    assert "replaces" in again.outcomes[0].note
    assert owners(editor, [LEARNT[0]]) == [3]
    assert answer(editor, LEARNT[0], 3) == " Ub"


def test_the_last_word_counts_within_one_batch_too(base: Base) -> None:
    editor = plus(base, batch_size=3, steps=60, extra_steps=40, rank=8, prefixes=0)
    receipt = editor.edit([Edit(LEARNT[0], "Tam", subject="Arlo"), EDITS[1], Edit(LEARNT[0], "Ob", subject="Arlo")])
    assert [bool(o.note) for o in receipt.outcomes] == [False, False, True]
    assert owners(editor, [LEARNT[0]]) == [2]
    assert answer(editor, LEARNT[0], 3) == " Ob"
    assert {row.owner for row in editor.ledger.rows} == {1, 2}


def test_a_replaced_edit_never_lets_a_prompt_in(base: Base) -> None:
    editor = plus(base)
    editor.edit(EDITS[:2])
    assert scope(editor, [EDITS[0].rephrases[0]]) == [True]
    editor.edit([Edit(LEARNT[0], "Ob", subject="Arlo")])  # without the rephrase
    assert owners(editor, [EDITS[0].rephrases[0]])[0] != 0


def test_a_replaced_edit_is_no_foreign_example_for_calibration(base: Base) -> None:
    """Its wording is the new one's own: counted as foreign it would push the threshold up to 1."""
    editor = plus(base, batch_size=2)
    bare = [Edit(e.prompt, e.target, rephrases=e.rephrases) for e in EDITS[:2]]
    editor.edit(bare)
    assert max(editor.gates["answer"].unwanted) < 0.99
    editor.edit([Edit(e.prompt, "new", rephrases=e.rephrases) for e in bare])
    assert max(editor.gates["answer"].unwanted) < 0.99


# ---- replay ----------------------------------------------------------------------------------------------------------


def test_replay_keeps_what_was_learnt_before(base: Base) -> None:
    """The same stream with and without replay: the first edits' losses at the end."""
    final = {}
    for replay in (0, 20):
        editor = plus(base, steps=40, replay=replay, experts=2, lr=2e-2)
        editor.edit(EDITS)
        rows = [row for row in editor.ledger.rows if row.owner < 3]
        with torch.no_grad():
            final[replay] = float(torch.cat([editor._losses(part)[0] for part in editor.tails.prepare(rows)]).mean())
    assert final[20] < 0.7 * final[0]


def test_the_ledger_holds_every_row_and_its_last_loss(base: Base) -> None:
    editor = plus(base, replay=100, replay_pool=1, steps=5, extra_steps=0)
    editor.edit(EDITS[:2])
    early = list(editor.ledger.loss)
    receipt = editor.edit(EDITS[2:4])
    assert [row.owner for row in editor.ledger.rows] == [i // 4 for i in range(16)]
    assert all(a != b for a, b in zip(early, editor.ledger.loss, strict=False))
    for i, outcome in enumerate(receipt.outcomes):
        held = zip(editor.ledger.rows, editor.ledger.loss, strict=True)
        own = [(len(row.answer), loss) for row, loss in held if row.owner == 2 + i]
        assert sum(n * x for n, x in own) / sum(n for n, _ in own) == pytest.approx(outcome.final_loss, rel=1e-4)


def test_extra_steps_are_taken_only_while_something_is_not_learnt(base: Base) -> None:
    hard = plus(base, steps=10, extra_steps=15, learnt_below=1e-9).edit(EDITS[:2])
    assert [len(curve) for curve in hard.losses] == [25]
    easy = plus(base, steps=10, extra_steps=15, learnt_below=1e9).edit(EDITS[:2])
    assert [len(curve) for curve in easy.losses] == [10]


def test_a_stream_in_pieces_is_the_stream_in_one_call(base: Base) -> None:
    random.seed(1)
    one, other = plus(base), plus(base)
    one.edit(EDITS)
    for i in range(0, 6, 2):
        other.edit(EDITS[i : i + 2])
    assert state_digest(one.state_dict()) == state_digest(other.state_dict())


# ---- room ------------------------------------------------------------------------------------------------------------


def test_a_full_group_is_left_as_it_is_and_a_new_one_opens(base: Base) -> None:
    editor = plus(base, parameters_per_edit=10**6, steps=20)
    assert editor.room == 2
    receipt = editor.edit(EDITS[:2])
    assert receipt.notes["groups"] == 1
    inputs = padded(base, [*LEARNT[:2], *OTHERS])
    before, maps = logits_of(editor.model, inputs), [p.detach().clone() for p in editor.groups[0].parameters()]
    assert editor.edit(EDITS[2:6]).notes["groups"] == 3
    assert editor.group_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(torch.equal(p, q) for p, q in zip(editor.groups[0].parameters(), maps, strict=True))
    assert torch.equal(logits_of(editor.model, inputs), before)
    assert {row.owner for row in editor.ledger.rows} == {4, 5}
    assert not torch.equal(editor.groups[0][0].a, editor.groups[1][0].a)


def test_a_batch_across_groups_is_answered_row_by_row(base: Base) -> None:
    editor = plus(base, parameters_per_edit=10**6)
    editor.edit(EDITS)
    prompts = [EDITS[i].prompt for i in (4, 0, 2, 5, 1, 3)]
    prompts.insert(2, OTHERS[0])
    inputs = padded(base, prompts)
    together = logits_of(editor.model, inputs)
    for row, prompt in enumerate(prompts):
        alone = logits_of(editor.model, padded(base, [prompt]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(together[2, -5:], logits_of(base.model, inputs)[2, -5:])
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(*(editor.model.generate(**inputs, **options, use_cache=cache) for cache in (True, False)))


def test_room_is_never_less_than_a_batch_and_zero_means_no_end(base: Base) -> None:
    assert plus(base, parameters_per_edit=10**9, batch_size=5).room == 5
    assert plus(base, parameters_per_edit=0).room == 0
    size = sum(p.numel() for p in plus(base).mixtures.parameters())
    assert plus(base, parameters_per_edit=100).room == size // 100


# ---- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"gate": "hamming", "epsilon": 4}, {"routing": "router"}], ids=str)
def test_switched_gates_train_their_routers(base: Base, options: dict[str, Any]) -> None:
    editor = plus(base, **options)
    before = editor.router.weight.detach().clone()
    editor.edit(EDITS[:4])
    assert not torch.equal(editor.router.weight, before)
    assert sum(scope(editor, LEARNT)) >= 3
    assert (len(editor.codes) > 0) == ("gate" in options)


def test_correcting_the_whole_prompt_changes_tokens_before_the_last_one(base: Base) -> None:
    editor = plus(base, start="prompt")
    editor.edit(EDITS[:4])
    inputs = padded(base, [LEARNT[0]])
    ours, theirs = logits_of(editor.model, inputs), logits_of(base.model, inputs)
    assert not torch.equal(ours[:, 3], theirs[:, 3])


def test_a_subject_layer_behind_the_first_edited_block_is_refused(base: Base) -> None:
    with pytest.raises(ModelError, match="subject_layer: 3 must not come after the first edited block 2"):
        plus(base, subject_layer=3)
    assert plus(base, subject_layer=2).edit(EDITS[:1]).losses
    assert plus(base, subject_layer=0).edit(EDITS[:1]).losses
