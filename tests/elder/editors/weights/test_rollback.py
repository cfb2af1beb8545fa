"""From one adapter back to the end of any batch, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elder.base import Base
from elder.editors.make import make_editor
from elder.editors.weights.rollback import rolled_back
from elder.errors import ConfigError
from elder.state import state_digest
from tests.elder.editors.gradient import test_trained_editors as test_hyper
from tests.elder.editors.weights import test_locate
from tests.elder.tiny import EDITS, OTHERS, logits_of, padded

KINDS = (*test_locate.KINDS, *test_hyper.KINDS)


def make(kind: str, base: Base) -> Any:
    return (test_hyper if kind in test_hyper.KINDS else test_locate).make(kind, base)


@pytest.mark.parametrize("kind", KINDS)
def test_every_earlier_state_is_there(base: Base, kind: str) -> None:
    editor, prompts = make(kind, base), padded(base, OTHERS)
    saved, said = {}, {}
    for begin, end in ((0, 2), (2, 4), (4, 6)):
        editor.edit(EDITS[begin:end])
        saved[end], said[end] = state_digest(editor.state_dict()), logits_of(editor.model, prompts)
    for edits, digest in saved.items():
        earlier = rolled_back(editor, edits)
        assert state_digest(earlier.state_dict()) == digest
        assert torch.equal(logits_of(earlier.model, prompts), said[edits])
        assert earlier.edits_applied == edits
    gone_on = rolled_back(editor, 2)
    gone_on.edit(EDITS[2:4])
    assert state_digest(gone_on.state_dict()) == saved[4]
    start = rolled_back(editor, 0)
    assert start.edits_applied == 0
    assert torch.equal(logits_of(start.model, prompts), logits_of(base.model, prompts))
    assert state_digest(editor.state_dict()) == saved[6]


@pytest.mark.parametrize("kind", ["memit", "ultraedit"])
def test_where_no_batch_ended_there_is_no_state(base: Base, kind: str) -> None:
    editor = make(kind, base)
    editor.edit(EDITS[:4])
    with pytest.raises(ConfigError, match="no batch ended after 3 edits; of 4 the nearest ends are 2 and 4"):
        rolled_back(editor, 3)
    with pytest.raises(ConfigError, match="elder keeps no earlier states"):
        rolled_back(make_editor("elder", base, layers=(1, 2, 3)), 2)
