"""GRACE as an editor: keys, values and where they stand (G1, G4 to G6, G8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.editors.codebook.radius_keys import RadiusKeys
from elder.editors.make import make_editor
from elder.errors import AdapterError, ConfigError, ModelError
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import edit_rows
from elder.models.anatomy import anatomy
from elder.models.load import wrap_base
from elder.state import state_digest
from elder.tokens import encode_prompt, pad_id
from tests.double import trained_apart, worst
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, greedy, logits_of, on_ranks, padded, padded_right, real_rows

SMALL: dict[str, Any] = {"layers": (1,), "steps": 30, "batch_size": 2, "radius": 0.01, "lr": 0.5}
PROMPTS = [*[edit.prompt for edit in EDITS[:4]], *OTHERS]
PLACES = ("last", "prompt", "all")


def grace(base: Base, **options: Any) -> Any:
    return make_editor("grace", base, **{**SMALL, **options})


@pytest.fixture(params=PLACES)
def edited(base: Base, request: pytest.FixtureRequest) -> Any:
    editor = grace(base, replacement=request.param)
    editor.edit(EDITS[:4])
    return editor


def routes(editor: Any, prompts: list[str]) -> Any:
    inputs = padded(editor.base, prompts)
    return editor.routes(inputs["input_ids"], inputs["attention_mask"])


def seen(base: Base, ids: list[int], model: Any = None) -> tuple[Tensor, Tensor]:
    """Input and output of the map, (T, width), in a pass over ids."""
    found: list[tuple[Tensor, Tensor]] = []
    model = base.model if model is None else model
    target = anatomy(model).target(1, "auto")
    hook = target.register_forward_hook(lambda _, args, output: found.append((args[0][0], output[0])))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    hook.remove()
    return found[0]


def test_keys_are_the_input_of_the_map_at_the_last_prompt_token(base: Base) -> None:
    editor = grace(base)
    editor.edit(EDITS[:3])
    rows = edit_rows(base.texts, EDITS[:3], "none")
    wanted = torch.stack([seen(base, list(row.prompt))[0][-1] for row in rows])
    torch.testing.assert_close(editor.keys.keys.values, wanted, rtol=1e-4, atol=1e-5)


def test_the_value_stands_where_the_option_says_and_nowhere_else(edited: Any) -> None:
    base = edited.base
    for number, edit in enumerate(EDITS[:2]):
        ids = encode_prompt(base.tokenizer, edit.prompt)
        before, now = seen(base, ids)[1], seen(base, ids, edited.model)[1]
        value = edited.values.rows.values[int(routes(edited, [edit.prompt]).gates[0, 0, 0])]
        replaced = {"last": [len(ids) - 1], "prompt": range(len(ids) - 1), "all": range(len(ids))}
        for place in range(len(ids)):
            inside = place in replaced[edited.options.replacement]
            assert torch.equal(now[place], value if inside else before[place]), (number, place)


def test_each_prompt_finds_its_value(edited: Any) -> None:
    found = routes(edited, [prompt for edit in EDITS[:4] for prompt in edit.training_prompts])
    each = len(EDITS[0].training_prompts)
    assert bool(found.inside.all())
    assert found.owner.tolist() == [number for number in range(4) for _ in range(each)]
    assert not bool(routes(edited, list(OTHERS)).inside.any())


def test_rows_have_their_own_values_in_one_pass(edited: Any) -> None:
    """The reference's broadcasting is right for one row only."""
    alone = [logits_of(edited.model, padded(edited.base, [prompt]))[0] for prompt in PROMPTS]
    inside = routes(edited, PROMPTS).inside.tolist()
    assert inside == [True] * 4 + [False] * len(OTHERS)
    for inputs in (padded(edited.base, PROMPTS, extra=2), padded_right(edited.base, PROMPTS)):
        rows = real_rows(inputs, logits_of(edited.model, inputs))
        before = real_rows(inputs, logits_of(edited.base.model, inputs))
        for row, own, plain, flag in zip(rows, alone, before, inside, strict=True):
            torch.testing.assert_close(row, own, rtol=1e-4, atol=1e-4)
            assert torch.equal(row, plain) != flag


def test_the_value_is_kept_while_a_sequence_is_generated(edited: Any) -> None:
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
    assert any(
        edited.ask(prompt).text
        != edited.base.tokenizer.decode(greedy(base.model, encode_prompt(base.tokenizer, prompt), 6))
        for prompt in PROMPTS[:4]
    )


@pytest.mark.parametrize("place", PLACES)
def test_what_is_trained_is_what_answers(base: Base, place: str) -> None:
    """The loss of the next step would be that of the model that answers."""
    editor = grace(base, replacement=place, steps=8)
    editor.edit(EDITS[:2])
    losses = grace(base, replacement=place, steps=9).edit(EDITS[:2]).losses[0]
    rows = edit_rows(base.texts, EDITS[:2], "eos")
    pairs = [Pair(row.prompt, row.answer) for row in rows]
    scores = score(editor.model, pairs, 8, base.runtime, pad_id(base.tokenizer), editor.routed_at)
    assert losses[8] < losses[0] - 0.05
    assert sum(one.nll for one in scores) / len(rows) == pytest.approx(losses[8], rel=1e-4)


@pytest.mark.parametrize("place", PLACES)
def test_values_of_a_batch_do_not_see_each_other(double: Base, place: str) -> None:
    """Together or one after another: the same values, but for where they begin."""
    options = {"replacement": place, "value_init": "warm", "lr": 1e-2}
    together, apart = grace(double, batch_size=4, **options), grace(double, batch_size=1, **options)
    together.edit(EDITS[:4])
    apart.edit(EDITS[:4])
    assert not worst(
        {"values": together.state_dict()["values"]},
        {"values": apart.state_dict()["values"]},
        trained_apart(steps=30, lr=1e-2, terms=10 * 40 + 128),
    )


def test_a_warm_value_begins_as_the_base(base: Base) -> None:
    """Then the first loss is the base's own."""
    first = {init: grace(base, value_init=init, steps=1).edit(EDITS[:2]).losses[0][0] for init in ("warm", "cold")}
    rows = edit_rows(base.texts, EDITS[:2], "eos")
    scores = score(base.model, [Pair(r.prompt, r.answer) for r in rows], 8, base.runtime, pad_id(base.tokenizer), None)
    plain = sum(one.nll for one in scores) / len(rows)
    assert first["warm"] == pytest.approx(plain, rel=1e-4)
    assert first["cold"] != pytest.approx(plain, rel=1e-2)


def test_a_covered_prompt_trains_the_value_further(base: Base) -> None:
    """A wide radius: both wordings of a fact share a key, whose value goes on from where it stood."""
    editor = grace(base, radius=1e3, batch_size=1)
    first = editor.edit([EDITS[0]])
    assert (first.notes["keys"], first.notes["covered"]) == (1, len(EDITS[0].training_prompts) - 1)
    again = editor.edit([replace(EDITS[0], id="again")])
    assert again.losses[0][0] < first.losses[0][0]
    assert (again.notes["keys"], len(editor.state_dict()["values"])) == (1, 1)
    assert editor.ask(EDITS[0].prompt).edit == "again"


def test_a_fact_that_is_edited_anew_has_its_last_answer(base: Base) -> None:
    editor = grace(base)
    editor.edit([EDITS[0], EDITS[1]])
    told = [editor.ask(edit.prompt) for edit in EDITS[:2]]
    assert [answer.edit for answer in told] == [EDITS[0].id, EDITS[1].id]
    receipt = editor.edit([replace(EDITS[0], target="Zed", id="anew")])
    assert receipt.losses[0][-1] < receipt.losses[0][0]
    said = [editor.ask(edit.prompt) for edit in EDITS[:2]]
    assert [answer.edit for answer in said] == ["anew", EDITS[1].id]
    assert (said[0].text == told[0].text, said[1].text == told[1].text) == (False, True)
    assert receipt.notes["replaced"] == len(EDITS[0].training_prompts)


def test_a_batch_that_fails_leaves_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = grace(base)
    editor.edit(EDITS[:2])
    before, said = state_digest(editor.state_dict()), logits_of(editor.model, padded(base, PROMPTS))
    whole = RadiusKeys.place

    def broken(self: RadiusKeys, *given: Any) -> Any:
        whole(self, *given)
        raise RuntimeError("full")

    monkeypatch.setattr(RadiusKeys, "place", broken)
    with pytest.raises(RuntimeError, match="full"):
        editor.edit(EDITS[2:4])
    monkeypatch.undo()
    assert state_digest(editor.state_dict()) == before
    assert torch.equal(logits_of(editor.model, padded(base, PROMPTS)), said)
    editor.edit(EDITS[2:4])
    other = grace(base)
    other.edit(EDITS[:2])
    other.edit(EDITS[2:4])
    assert state_digest(editor.state_dict()) == state_digest(other.state_dict())


def test_states_that_contradict_themselves_are_refused(base: Base) -> None:
    editor = grace(base)
    editor.edit(EDITS[:2])
    state, before = editor.state_dict(), state_digest(editor.state_dict())
    with pytest.raises(AdapterError, match=r"'keys.value' names what is not there"):
        editor.load_state_dict({**state, "values": state["values"][:1]})
    with pytest.raises(AdapterError, match=r"'keys.radius' is negative"):
        editor.load_state_dict({**state, "keys.radius": state["keys.radius"] - 9})
    assert state_digest(editor.state_dict()) == before


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_reach_the_state_of_one_process(double: Base, world_size: int) -> None:
    base, options = double, {"lr": 1e-2, "batch_size": 3, "micro_batch": 2, "steps": 8}

    def program(runtime: ThreadRuntime) -> Any:
        editor = grace(wrap_base(base.model, base.tokenizer, base.source, runtime), **options)
        editor.edit(EDITS[:5])
        return editor.state_dict()

    alone = grace(base, **options)
    alone.edit(EDITS[:5])
    wanted, ranks = alone.state_dict(), on_ranks(program, world_size)
    assert len({state_digest(state) for state in ranks}) == 1
    assert not worst(ranks[0], wanted, trained_apart(steps=8, lr=1e-2, terms=10 * 40 + 128))


def test_the_block_must_have_others_above_it(base: Base) -> None:
    with pytest.raises(ModelError, match="expected a block below the last one, 3"):
        grace(base, layers=(3,))
    with pytest.raises(ConfigError, match="of one block, 2 are named"):
        grace(base, layers=(1, 2))
