"""When a pass is routed anew, and at which token."""

from __future__ import annotations

import pytest
import torch

from elder.mixture.route import Route, RoutingClock

IDS = torch.zeros(2, 5, dtype=torch.long)
LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
ROUTE = Route(torch.ones(1, 2, 3))


class Cache:
    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def test_the_key_is_the_last_real_token_whichever_side_is_padded() -> None:
    clock = RoutingClock()
    clock.start({"input_ids": IDS, "attention_mask": LEFT}, ())
    assert clock.moment.positions.tolist() == [4, 4]
    assert torch.equal(clock.moment.prompt, LEFT.bool())
    clock.start({"input_ids": IDS, "attention_mask": RIGHT}, ())
    assert clock.moment.positions.tolist() == [2, 4]
    assert torch.equal(clock.moment.prompt, RIGHT.bool())
    clock.start({}, (IDS,))
    assert clock.moment.positions.tolist() == [4, 4]
    assert clock.moment.prompt.all()


def test_explicit_positions_cut_the_prompt_off_behind_them() -> None:
    clock = RoutingClock()
    with clock.at(torch.tensor([3, 1])):
        clock.start({"input_ids": IDS, "attention_mask": LEFT}, ())
        assert clock.moment.positions.tolist() == [3, 1]
        assert clock.moment.prompt.tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    clock.start({"input_ids": IDS}, ())
    assert clock.moment.positions.tolist() == [4, 4]


def test_positions_that_do_not_fit_the_batch_are_refused() -> None:
    clock = RoutingClock()
    with clock.at(torch.tensor([3])), pytest.raises(ValueError, match="1 positions for a batch of 2 rows"):
        clock.start({"input_ids": IDS}, ())


def test_a_pass_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        RoutingClock().start({}, ())


def test_embedded_tokens_are_located_too() -> None:
    clock = RoutingClock()
    clock.start({"inputs_embeds": torch.zeros(2, 5, 8), "attention_mask": RIGHT}, ())
    assert clock.moment.positions.tolist() == [2, 4]


def test_passes_that_continue_a_cache_keep_the_route() -> None:
    clock = RoutingClock()
    clock.start({"input_ids": IDS, "past_key_values": Cache(0)}, ())
    assert clock.moment is not None
    assert not clock.cached
    clock.decide(ROUTE)
    clock.start({"input_ids": IDS[:, :1], "past_key_values": Cache(5)}, ())
    assert clock.moment is None
    assert clock.route is ROUTE
    assert clock.cached
    clock.start({"input_ids": IDS}, ())
    assert clock.moment is not None
    assert clock.route is None


def test_a_cache_that_was_not_filled_under_a_route_is_routed_by_the_visible_tokens() -> None:
    clock = RoutingClock()
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]])  # five cached tokens, two new ones
    foreign = {"input_ids": IDS[:, :2], "attention_mask": mask, "past_key_values": Cache(5)}
    clock.start(foreign, ())
    assert clock.moment.positions.tolist() == [0, 1]
    assert clock.moment.prompt.tolist() == [[True, False], [True, True]]
    assert not clock.cached  # the route's own start counts
    clock.decide(ROUTE)
    clock.start({**foreign, "input_ids": IDS[:, :1]}, ())
    assert clock.moment is None
    assert clock.route is ROUTE
    assert clock.cached


@pytest.mark.parametrize("what", ["other batch", "disabled", "imposed"])
def test_a_route_is_kept_for_its_own_batch_only(what: str) -> None:
    clock = RoutingClock()
    clock.start({"input_ids": IDS}, ())
    clock.decide(ROUTE)
    rows = 3 if what == "other batch" else 2
    if what == "disabled":
        with clock.disabled():
            clock.start({"input_ids": IDS}, ())
    elif what == "imposed":
        with clock.imposing(ROUTE):
            clock.start({"input_ids": IDS}, ())
    clock.start({"input_ids": torch.zeros(rows, 1, dtype=torch.long), "past_key_values": Cache(5)}, ())
    assert clock.moment is not None
    assert clock.route is None
    assert clock.moment.positions.tolist() == [0] * rows


def test_explicit_positions_count_cached_tokens() -> None:
    clock = RoutingClock()
    with clock.at(torch.tensor([6, 3])):
        clock.start({"input_ids": IDS[:, :3], "past_key_values": Cache(5)}, ())
    assert clock.moment.positions.tolist() == [1, 0]


def test_e10_one_generation_is_routed_once_with_or_without_cache() -> None:
    clock = RoutingClock()
    with clock.generating():
        clock.start({"input_ids": IDS}, ())
        clock.decide(ROUTE)
        for length in (6, 7):  # no cache: the whole text again, longer each time
            clock.start({"input_ids": torch.zeros(2, length, dtype=torch.long)}, ())
            assert clock.moment is None
            assert clock.route is ROUTE
            assert not clock.cached
    with clock.generating():
        clock.start({"input_ids": IDS}, ())
        assert clock.moment is not None
        assert clock.route is None


def test_e10_a_generation_out_of_scope_stays_out_of_scope() -> None:
    clock = RoutingClock()
    with clock.generating():
        clock.start({"input_ids": IDS}, ())
        clock.decide(None)
        clock.start({"input_ids": torch.zeros(2, 6, dtype=torch.long)}, ())
        assert clock.moment is None
        assert clock.route is None


def test_disabled_passes_have_no_route_and_leave_none_behind() -> None:
    clock = RoutingClock()
    clock.start({"input_ids": IDS}, ())
    clock.decide(ROUTE)
    with clock.disabled():
        clock.start({"input_ids": IDS}, ())
        assert clock.moment is None
        assert clock.route is None
        with clock.disabled():
            pass
        clock.start({"input_ids": IDS}, ())
        assert clock.moment is None
    clock.start({"input_ids": IDS}, ())
    assert clock.moment is not None


def test_an_imposed_route_stands_whatever_the_pass_is_about_and_ends_with_its_block() -> None:
    clock = RoutingClock()
    with clock.imposing(ROUTE):
        clock.start({"input_ids": IDS, "past_key_values": Cache(5)}, ())
        assert clock.route is ROUTE
        assert clock.moment is None
        assert not clock.cached  # training counts tokens from the route's own start
    assert clock.route is None
    with pytest.raises(RuntimeError), clock.imposing(ROUTE):
        raise RuntimeError
    assert clock.route is None
    clock.start({"input_ids": IDS}, ())
    assert clock.moment is not None
