"""MELO as an editor: keys, blocks and the way from one to the other (M2, M3, M4, M8, M9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.editors.codebook.blocks import Blocks
from elder.editors.codebook.clusters import Clusters
from elder.editors.make import make_editor
from elder.errors import AdapterError, ConfigError, ModelError
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import edit_rows
from elder.models.anatomy import anatomy
from elder.models.load import wrap_base
from elder.state import state_digest
from elder.tokens import encode_prompt, pad_id
from tests.double import trained_apart, worst
from tests.elder.editors.test_two_processors import on_two_processors
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, greedy, logits_of, on_ranks, padded, padded_right, real_rows

SMALL: dict[str, Any] = {"layers": (2, 3), "steps": 8, "batch_size": 2, "radius": 0.05, "lr": 1e-2}
PROMPTS = [*[edit.prompt for edit in EDITS[:4]], *OTHERS]


def melo(base: Base, **options: Any) -> Any:
    return make_editor("melo", base, **{**SMALL, **options})


@pytest.fixture
def edited(base: Base) -> Any:
    editor = melo(base, steps=40)
    editor.edit(EDITS[:4])
    return editor


def routes(editor: Any, prompts: list[str]) -> Any:
    inputs = padded(editor.base, prompts)
    return editor.routes(inputs["input_ids"], inputs["attention_mask"])


def test_keys_are_what_the_map_gives_at_the_last_prompt_token(base: Base) -> None:
    """Of the prompt alone: no padding, no answer."""
    editor = melo(base)
    editor.edit(EDITS[:3])
    seen: list[Tensor] = []
    target = anatomy(base.model).target(1, "auto")
    hook = target.register_forward_hook(lambda _, __, output: seen.append(output[0, -1]))
    for row in edit_rows(base.texts, EDITS[:3], "none"):
        base.model(input_ids=torch.tensor([row.prompt]))
    hook.remove()
    torch.testing.assert_close(editor.clusters.points.values, torch.stack(seen), rtol=1e-4, atol=1e-5)


def test_a_batch_has_one_block_and_its_prompts_find_it(edited: Any) -> None:
    assert [len(blocks) for blocks in edited.blocks] == [2, 2]
    found = routes(edited, [prompt for edit in EDITS[:4] for prompt in edit.training_prompts])
    each = len(EDITS[0].training_prompts)
    assert bool(found.inside.all())
    assert found.gates[:, 0, 0].tolist() == [0.0] * 2 * each + [1.0] * 2 * each
    assert found.owner.tolist() == [number for number in range(4) for _ in range(each)]
    assert not bool(routes(edited, list(OTHERS)).inside.any())


def test_rows_use_their_own_blocks_in_one_pass(edited: Any) -> None:
    """Beside others, padded on either side: each row as alone, and those outside as the base has them, to the bit."""
    alone = [logits_of(edited.model, padded(edited.base, [prompt]))[0] for prompt in PROMPTS]
    inside = routes(edited, PROMPTS).inside.tolist()
    assert inside == [True] * 4 + [False] * len(OTHERS)
    for inputs in (padded(edited.base, PROMPTS, extra=2), padded_right(edited.base, PROMPTS)):
        rows = real_rows(inputs, logits_of(edited.model, inputs))
        before = real_rows(inputs, logits_of(edited.base.model, inputs))
        for row, own, plain, flag in zip(rows, alone, before, inside, strict=True):
            torch.testing.assert_close(row, own, rtol=1e-4, atol=1e-4)
            assert torch.equal(row, plain) != flag


def test_the_block_is_kept_while_a_sequence_is_generated(edited: Any) -> None:
    """With a cache, without one, and teacher-forced behind the same prompt."""
    base = edited.base
    for prompt in PROMPTS[:4]:
        row = encode_prompt(base.tokenizer, prompt)
        ids = torch.tensor([row])
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
        cached = edited.model.generate(ids, **options)[0]
        assert torch.equal(cached, edited.model.generate(ids, use_cache=False, **options)[0])
        with edited.routed_at(torch.tensor([len(row) - 1])):
            forced = logits_of(edited.model, {"input_ids": cached[None]})[0, len(row) - 1 : -1].argmax(-1)
        assert torch.equal(forced, cached[len(row) :])
        assert cached.tolist() != row + greedy(base.model, row, 6)


def test_answers_name_the_edit_and_how_far_inside_they_are(edited: Any) -> None:
    said = edited.ask([EDITS[2].prompt, OTHERS[0]])
    assert (said[0].edited, said[0].edit) == (True, EDITS[2].id)
    assert 0 < said[0].score <= 1
    assert (said[1].edited, said[1].edit, said[1].score) == (False, None, None)


def test_later_batches_leave_earlier_blocks_alone(base: Base) -> None:
    editor = melo(base)
    editor.edit(EDITS[:2])
    before = editor.state_dict()
    said = logits_of(editor.model, padded(base, PROMPTS[:2]))
    editor.edit(EDITS[2:6])
    after = editor.state_dict()
    for name in ("blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b"):
        assert (len(before[name]), len(after[name])) == (1, 3)
        assert torch.equal(after[name][:1], before[name])
        assert not torch.equal(after[name][1], after[name][2])
    torch.testing.assert_close(logits_of(editor.model, padded(base, PROMPTS[:2])), said, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", [1.0, 20.0])
def test_what_is_trained_is_what_answers(base: Base, scaling: float) -> None:
    """The loss of the next step would be that of the model that answers: rank, factor and maps agree."""
    lr = 0.1 / scaling
    editor = melo(base, scaling=scaling, lr=lr)
    editor.edit(EDITS[:2])
    losses = melo(base, scaling=scaling, lr=lr, steps=9).edit(EDITS[:2]).losses[0]
    rows = edit_rows(base.texts, EDITS[:2], "eos")
    pairs = [Pair(row.prompt, row.answer) for row in rows]
    scores = score(editor.model, pairs, 8, base.runtime, pad_id(base.tokenizer), editor.routed_at)
    nats = sum(one.nll * len(row.answer) for one, row in zip(scores, rows, strict=True))
    assert losses[8] < losses[0] - 0.05
    assert nats / sum(len(row.answer) for row in rows) == pytest.approx(losses[8], rel=1e-4)


def test_a_fact_that_is_edited_anew_has_its_last_answer(base: Base) -> None:
    editor = melo(base, steps=60, rank=8)
    editor.edit([EDITS[0], EDITS[1]])
    assert editor.ask(EDITS[0].prompt).text == EDITS[0].target
    receipt = editor.edit([replace(EDITS[0], target="Zed", id="anew")])
    said = editor.ask(EDITS[0].prompt)
    assert (said.text, said.edit) == ("Zed", "anew")
    assert receipt.notes["replaced"] == len(EDITS[0].training_prompts)
    assert receipt.notes["forgotten"] == 0
    assert editor.ask(EDITS[1].prompt).text == EDITS[1].target


def test_a_radius_that_cannot_work_is_told(base: Base) -> None:
    receipt = melo(base, radius=1e-4).edit(EDITS[:2])
    assert receipt.notes["between_wordings"] > 1e-4
    assert any("less than the distance between two wordings" in text for text in receipt.warnings)
    wide = melo(base, radius=1e3, batch_size=1).edit(EDITS[:4])
    assert wide.notes["forgotten"] > 0
    assert any("lost their place" in text for text in wide.warnings)
    assert not any("wordings of an edit" in text for text in wide.warnings)


@pytest.mark.parametrize(("broken", "after"), [(Clusters, 1), (Blocks, 1), (Blocks, 2)])
def test_a_batch_that_fails_leaves_nothing(
    base: Base, broken: Any, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = melo(base)
    editor.edit(EDITS[:2])
    before, said = state_digest(editor.state_dict()), logits_of(editor.model, padded(base, PROMPTS))
    whole, calls = broken.add, []

    def full(self: Any, *given: Any) -> Any:
        calls.append(1)
        found = whole(self, *given)
        if len(calls) == after:
            raise RuntimeError("full")
        return found

    monkeypatch.setattr(broken, "add", full)
    with pytest.raises(RuntimeError, match="full"):
        editor.edit(EDITS[2:4])
    monkeypatch.undo()
    assert state_digest(editor.state_dict()) == before
    assert torch.equal(logits_of(editor.model, padded(base, PROMPTS)), said)
    editor.edit(EDITS[2:4])
    other = melo(base)
    other.edit(EDITS[:2])
    other.edit(EDITS[2:4])
    assert state_digest(editor.state_dict()) == state_digest(other.state_dict())


def test_states_that_contradict_themselves_are_refused(edited: Any) -> None:
    state, before = edited.state_dict(), state_digest(edited.state_dict())
    with pytest.raises(AdapterError, match=r"'blocks' have \[1, 2\] entries"):
        edited.load_state_dict({**state, "blocks.1.b": state["blocks.1.b"][:1]})
    with pytest.raises(AdapterError, match=r"'clusters.block' names what is not there"):
        edited.load_state_dict({**state, "clusters.block": state["clusters.block"] + 1})
    assert state_digest(edited.state_dict()) == before


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_reach_the_state_of_one_process(double: Base, world_size: int) -> None:
    base, options = double, {"lr": 1e-3, "batch_size": 3, "micro_batch": 2, "scaling": 1.0}

    def program(runtime: ThreadRuntime) -> Any:
        editor = melo(wrap_base(base.model, base.tokenizer, base.source, runtime), **options)
        editor.edit(EDITS[:5])
        return editor.state_dict()

    alone = melo(base, **options)
    alone.edit(EDITS[:5])
    wanted, ranks = alone.state_dict(), on_ranks(program, world_size)
    assert wanted["blocks.0.b"].dtype == torch.float64
    assert len({state_digest(state) for state in ranks}) == 1
    assert not worst(ranks[0], wanted, trained_apart(steps=16, lr=1e-3, terms=10 * 40 + 128))


def test_ranks_that_round_otherwise_have_one_store(base: Base) -> None:
    """With keys that extend clusters and cut them: the first rank's centres and radii are everybody's."""

    def program(runtime: ThreadRuntime) -> Any:
        editor = melo(wrap_base(base.model, base.tokenizer, base.source, runtime), radius=9.0)
        receipt = editor.edit([*(replace(edit, target="Tam") for edit in EDITS[:4]), EDITS[4]])
        return editor.state_dict(), receipt.notes

    (first, notes), (other, _) = on_two_processors(program)
    rows = sum(len(edit.training_prompts) for edit in EDITS[:5])
    assert notes["clusters"] < rows - notes["conflicts"]  # some were extended
    assert notes["conflicts"] > 0
    assert [name for name in first if not torch.equal(first[name], other[name])] == []


def test_the_key_comes_from_below_the_blocks(base: Base) -> None:
    assert melo(base, layers=(3,)).key_layer == 2
    assert melo(base, layers=(3,), key_layer=0).key_layer == 0
    with pytest.raises(ConfigError, match="must lie below the first edited block 2"):
        melo(base, key_layer=2)
    with pytest.raises(ModelError, match=r"leave block 0 out of editor.layers"):
        melo(base, layers=(0, 1))
