"""Data parallel learning: two ranks reach the state that one process reaches. The ranks are threads.

In float64, where what parts them is a fault and not rounding (see `tests/double.py`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elder.base import Base
from elder.editors.make import make_editor
from elder.models.load import wrap_base
from elder.state import state_digest
from tests.double import trained_apart, worst
from tests.elder.tiny import EDITS, OPTIONS, ThreadRuntime, on_ranks

VARIANTS = [
    ("elder", {}),
    ("elder", {"batch_size": 1, "micro_batch": 1}),
    ("elder-plus", {"subject_threshold": None, "answer_threshold": None}),
    ("elder-plus", {"parameters_per_edit": 10**6, "batch_size": 1}),
    ("elder-plus", {"batch_size": 1, "replay": 1, "replay_pool": 1, "prefixes": 0}),
    ("elder-plus", {"gate": "hamming", "epsilon": 4}),
]
LR = 1e-3
# Two batches of at most 12 steps; a gradient is a sum over at most 40 rows of 40 tokens, on activations that are sums
# over 128 numbers. That makes 5e-7; what comes out is 2e-14. A gradient that is not summed shows at 1e-4 and above.
APART = trained_apart(steps=24, lr=LR, terms=40 * 40 + 128)
NAMES = ["elder", "elder-odd", "plus", "plus-growing", "plus-odd", "plus-hamming"]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("method", "options"), VARIANTS, ids=NAMES)
def test_ranks_reach_the_state_of_one_process(
    double: Base, method: str, options: dict[str, Any], world_size: int
) -> None:
    base, options = double, {**OPTIONS[method], "lr": LR, **options}

    def program(runtime: ThreadRuntime) -> tuple[dict[str, torch.Tensor], Any]:
        editor = make_editor(method, wrap_base(base.model, base.tokenizer, base.source, runtime), **options)
        receipt = editor.edit(EDITS[:3])
        return editor.state_dict(), receipt

    alone = make_editor(method, base, **options)
    receipt = alone.edit(EDITS[:3])
    wanted, ranks = alone.state_dict(), on_ranks(program, world_size)
    assert wanted["mixtures.0.0.b"].dtype == torch.float64
    assert len({state_digest(state) for state, _ in ranks}) == 1
    assert not worst(ranks[0][0], wanted, APART)
    for _, theirs in ranks:
        assert [o.edit_id for o in theirs.outcomes] == [o.edit_id for o in receipt.outcomes]
        final = [o.final_loss for o in receipt.outcomes]
        assert [o.final_loss for o in theirs.outcomes] == pytest.approx(final, abs=APART)
        for curve, other in zip(theirs.losses, receipt.losses, strict=True):
            assert curve == pytest.approx(other, abs=APART)
