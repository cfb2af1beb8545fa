"""When a pass is routed, at which token, and what is kept of it: the model is played by hand, the rule writes down."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from elder.mixture.deferral import Prompts
from elder.mixture.edits import MixtureEdits, Pass, Version
from elder.mixture.route import Plan, Routes

IDS = torch.arange(3, 13).view(2, 5)
LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


class Rule:
    """Writes down what it is asked. A prompt is in scope if the number of its last token is even."""

    def __init__(self, whole: bool = False, edits: int = 1) -> None:
        self.whole, self.edits = whole, edits
        self.reads_subject, self.answer_tokens = True, 0
        self.asked: list[Prompts] = []

    def __len__(self) -> int:
        return self.edits

    def decide(self, prompts: Prompts) -> Routes:
        self.asked.append(prompts)
        last = prompts.last[:, 0]
        routes = Routes.none(len(last), 1, 2, last.device)
        gates = last[:, None, None].expand(len(last), 1, 2)
        return Routes(last % 2 == 0, gates, routes.group, last.long(), routes.score)

    def named(self, prompts: Prompts) -> Tensor:
        return torch.ones(len(prompts.last), dtype=torch.bool)


def edits_of(**options: Any) -> tuple[MixtureEdits, Rule]:
    rule = Rule(**options)
    version = Version(rule, ((nn.Identity(),),), (), 1, (1, 2))
    return MixtureEdits(version, nn.Embedding(20, 4), frozenset(), 0, "a rule of tests"), rule


def run(edits: MixtureEdits, cache: DynamicCache | None = None, **kwargs: Any) -> Pass:
    """One pass: states are the numbers of the tokens, and what the cache holds of them too."""
    if cache is not None:
        kwargs["past_key_values"] = cache
    with edits.probing(kwargs) as made:
        tokens = made.tokens if made.tokens.dim() == 2 else made.tokens[..., 0]
        states = tokens[..., None].float()
        edits.seen_low(states)
        edits.tapped(states)
        edits.tapped(states + 1)  # decided once, whatever comes by later
    if cache is not None:
        keys = states[:, None]
        cache.update(keys, keys, 0)
        edits.finish(made, SimpleNamespace(past_key_values=cache, logits=None))
    return made


def corrected_of(made: Pass) -> list[int]:
    """Numbers of the corrected tokens."""
    if made.plan is None:
        return []
    tokens = made.tokens.flatten()
    return (tokens if made.plan.tokens is None else tokens[made.plan.tokens]).tolist()


def lasts(rule: Rule) -> list[list[int]]:
    """The last prompt tokens of each decision."""
    return [prompts.last[:, 0].long().tolist() for prompts in rule.asked]


# ---- where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "last", "corrected"),
    [(LEFT, [7, 12], [12]), (RIGHT, [5, 12], [12]), (None, [7, 12], [12])],
    ids=["left", "right", "none"],
)
def test_the_key_is_the_last_real_token_whichever_side_is_padded(
    mask: Tensor | None, last: list[int], corrected: list[int]
) -> None:
    edits, rule = edits_of()
    made = run(edits, input_ids=IDS, attention_mask=mask)
    assert lasts(rule) == [last]
    wanted = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask.bool()
    assert torch.equal(rule.asked[0].real, wanted)
    assert corrected_of(made) == corrected


def test_explicit_positions_cut_the_prompt_off_behind_them() -> None:
    edits, rule = edits_of()
    with edits.placed(torch.tensor([3, 1])):
        made = run(edits, input_ids=IDS, attention_mask=LEFT)
    assert lasts(rule) == [[6, 9]]
    assert rule.asked[0].real.tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    assert corrected_of(made) == [6, 7]
    run(edits, input_ids=IDS)
    assert lasts(rule)[1] == [7, 12]


def test_a_whole_prompt_is_corrected_where_the_rule_says_so() -> None:
    edits, _ = edits_of(whole=True)
    with edits.placed(torch.tensor([3, 2])):
        assert corrected_of(run(edits, input_ids=IDS)) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_positions_that_do_not_fit_the_batch_are_refused() -> None:
    edits, _ = edits_of()
    with edits.placed(torch.tensor([3])), pytest.raises(ValueError, match="1 positions for a batch of 2 rows"):
        run(edits, input_ids=IDS)


def test_a_pass_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        run(edits_of()[0])


def test_embedded_tokens_are_located_too() -> None:
    edits, rule = edits_of()
    run(edits, inputs_embeds=IDS[..., None].float().expand(2, 5, 4), attention_mask=RIGHT)
    assert lasts(rule) == [[5, 12]]


def test_nothing_is_asked_before_there_is_an_edit() -> None:
    edits, rule = edits_of(edits=0)
    assert run(edits, input_ids=IDS).plan is None
    assert rule.asked == []


# ---- once ----------------------------------------------------------------------------------------------------------


def test_passes_that_continue_a_cache_keep_the_route() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    run(edits, cache, input_ids=IDS)
    step = torch.tensor([[14], [15]])
    for _ in range(3):
        assert corrected_of(run(edits, cache, input_ids=step)) == [15]
    run(edits, cache, input_ids=step, attention_mask=torch.ones(2, 9))
    assert lasts(rule) == [[7, 12]]
    run(edits, input_ids=IDS)
    assert len(rule.asked) == 2


def test_two_caches_do_not_meet() -> None:
    edits, rule = edits_of()
    caches = [DynamicCache(), DynamicCache()]
    run(edits, caches[0], input_ids=IDS)
    run(edits, caches[1], input_ids=IDS.flip(0))
    step = torch.tensor([[14], [15]])
    for _ in range(2):
        assert corrected_of(run(edits, caches[0], input_ids=step)) == [15]
        assert corrected_of(run(edits, caches[1], input_ids=step)) == [14]
    assert len(rule.asked) == 2


def test_a_prompt_in_pieces_is_routed_at_its_end() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    pieces = [{"input_ids": IDS[:, a:b], "prompt_length": 5} for a, b in ((0, 2), (2, 4), (4, 5))]
    assert [corrected_of(run(edits, cache, **piece)) for piece in pieces] == [[], [], [12]]
    assert lasts(rule) == [[7, 12]]
    assert rule.asked[0].low[:, :, 0].tolist() == IDS.tolist()  # the subject may stand in an earlier piece
    assert rule.asked[0].real.all()


def test_a_row_that_ends_in_an_earlier_piece_is_routed_there() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    run(edits, cache, input_ids=IDS[:, :3], prompt_length=[2, 5])
    made = run(edits, cache, input_ids=IDS[:, 3:], prompt_length=[2, 5])
    assert [row[-1] for row in lasts(rule)] == [4, 12]
    new = IDS[:, 3:].flatten().tolist()
    assert [token for token in corrected_of(made) if token in new] == [6, 7, 12]


def test_a_prompt_that_nobody_describes_goes_on_with_several_tokens() -> None:
    """What was corrected for its old end is read again; the caller sees its own tokens only."""
    edits, rule = edits_of()
    cache = DynamicCache()
    first = run(edits, cache, input_ids=IDS[:, :2])  # ends at 4 and 9: the first row is in scope
    assert corrected_of(first) == [4]
    made = run(edits, cache, input_ids=IDS[:, 2:])
    assert made.tokens.tolist() == IDS[:, 1:].tolist()
    assert made.again == 1
    assert corrected_of(made) == [12]
    assert lasts(rule) == [[4, 9], [7, 12]]
    assert cache.layers[0].keys[:, 0, :, 0].tolist() == IDS.tolist()


def test_nothing_is_corrected_while_the_next_prompt_has_not_ended() -> None:
    """A prompt that was answered is the beginning of a longer one, which comes in told pieces."""
    edits, rule = edits_of()
    cache = DynamicCache()
    first = run(edits, cache, input_ids=IDS[:, :2])
    assert corrected_of(first) == [4]
    assert corrected_of(run(edits, cache, input_ids=IDS[:, 2:4], prompt_length=5)) == []
    made = run(edits, cache, input_ids=IDS[:, 4:], prompt_length=5)
    assert made.tokens.tolist() == IDS[:, 1:].tolist()  # what was corrected for the first end is read again
    assert corrected_of(made) == [12]
    assert lasts(rule) == [[4, 9], [7, 12]]


def test_a_cache_that_others_filled_is_routed_by_the_visible_tokens() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 5, 1), torch.zeros(2, 1, 5, 1), 0)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]])
    made = run(edits, cache, input_ids=IDS[:, :2], attention_mask=mask)
    assert lasts(rule) == [[3, 9]]
    assert rule.asked[0].real.tolist() == [[True, False], [True, True]]
    assert corrected_of(made) == []


def test_a_record_that_does_not_fit_the_cache_is_not_believed() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    run(edits, cache, input_ids=IDS)
    cache.layers[0].keys = cache.layers[0].keys[..., :3, :]  # behind our back
    run(edits, cache, input_ids=torch.tensor([[14], [15]]))
    assert lasts(rule) == [[7, 12], [14, 15]]


def test_another_stream_of_edits_does_not_read_the_record() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    run(edits, cache, input_ids=IDS)
    edits.publish(edits.version)
    run(edits, cache, input_ids=torch.tensor([[14], [15]]))
    assert len(rule.asked) == 1
    edits.publish(edits.version, same_stream=False)
    run(edits, cache, input_ids=torch.tensor([[14], [15]]))
    assert len(rule.asked) == 2


# ---- off, and imposed ------------------------------------------------------------------------------------------------


def test_disabled_passes_decide_nothing_and_leave_nothing_behind() -> None:
    edits, rule = edits_of()
    cache = DynamicCache()
    seen = {}

    def model(**kwargs: Any) -> Any:
        seen.update(kwargs)
        edits.tapped(torch.zeros(2, 5, 1))
        assert edits.planned() is None
        return SimpleNamespace(past_key_values=cache)

    with edits.disabled():
        with edits.disabled():
            pass
        edits.forward(model, {"input_ids": IDS, "prompt_length": 3, "past_key_values": cache})
    assert sorted(seen) == ["input_ids", "past_key_values"]
    assert rule.asked == []
    assert type(cache) is DynamicCache


def test_an_imposed_plan_stands_whatever_the_pass_is_about_and_ends_with_its_block() -> None:
    edits, rule = edits_of()
    plan, groups = Plan(torch.ones(1, 2, 2)), ((nn.Linear(1, 1),),)
    with edits.imposing(plan, groups):
        edits.forward(lambda **_: edits.tapped(torch.zeros(2, 5, 1)), {"input_ids": IDS})
        assert edits.planned() == (plan, groups)
    assert edits.planned() is None
    with pytest.raises(RuntimeError), edits.imposing(plan, groups):
        raise RuntimeError
    assert edits.planned() is None
    assert rule.asked == []
    assert edits.version.groups != groups


def test_a_pass_of_one_thread_is_not_seen_by_another() -> None:
    edits, _ = edits_of()
    seen = []
    with edits.imposing(Plan(torch.ones(1, 2, 2)), ()), edits.placed(torch.tensor([0, 0])):
        thread = threading.Thread(target=lambda: seen.append((edits.planned(), run(edits, input_ids=IDS).plan)))
        thread.start()
        thread.join(timeout=30)
    ((planned, plan),) = seen
    assert planned is None
    assert plan.tokens.tolist() == [9]  # routed at the last tokens, not where the other thread says


def test_a_pass_keeps_the_version_it_began_with() -> None:
    edits, rule = edits_of()
    with edits.probing({"input_ids": IDS}) as made:
        edits.publish(Version(Rule(edits=0), (), (), 0, (1, 2)))
        edits.seen_low(IDS[..., None].float())
        edits.tapped(IDS[..., None].float())
        assert edits.planned()[1] == made.version.groups
    assert len(rule.asked) == 1
