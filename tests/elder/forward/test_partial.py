"""Parts of a model run alone: the blocks below a cut and those from it on are all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elder.base import Base
from elder.forward.partial import PartialForward
from elder.models.anatomy import anatomy, clone_sharing_weights
from tests.elder.tiny import EDITS, logits_of, padded


@pytest.fixture
def clone(base: Base) -> Any:
    return clone_sharing_weights(base.model)


@pytest.fixture
def partial(clone: Any) -> PartialForward:
    return PartialForward(anatomy(clone).blocks)


@torch.no_grad()
def test_running_the_lower_blocks_and_then_the_upper_ones_is_running_all(
    base: Base, clone: Any, partial: PartialForward
) -> None:
    inputs = padded(base, [e.prompt for e in EDITS])
    whole = logits_of(base.model, inputs)
    for cut in (1, 2, 3):
        with partial.only_below(cut):
            logits_of(clone, inputs)
            hidden = partial.reached()
        with partial.only_from(cut, hidden):
            assert torch.equal(logits_of(clone, inputs), whole)
    assert torch.equal(logits_of(clone, inputs), whole)


def test_asking_for_states_that_no_run_reached_is_an_error(partial: PartialForward) -> None:
    with pytest.raises(RuntimeError, match="only_below"):
        partial.reached()


def test_partial_runs_end_with_their_block_even_after_an_error(base: Base, clone: Any, partial: PartialForward) -> None:
    inputs = padded(base, ["abc"])
    with pytest.raises(KeyError), partial.only_below(1):
        raise KeyError
    with pytest.raises(KeyError), partial.only_from(2, torch.zeros(1, 4, 32)):
        raise KeyError
    assert torch.equal(logits_of(clone, inputs), logits_of(base.model, inputs))
