"""From one adapter back to the end of any batch, to the bit."""

from __future__ import annotations

import pytest

from elder.editors.base import Base, state_digest
from elder.editors.make import make_editor
from elder.editors.rollback import rolled_back
from elder.errors import ConfigError
from tests.elder.editors.test_locate import KINDS, make
from tests.elder.tiny import EDITS


@pytest.mark.parametrize("kind", KINDS)
def test_every_earlier_state_is_there(base: Base, kind: str) -> None:
    editor = make(kind, base)
    saved = {}
    for begin, end in ((0, 2), (2, 4), (4, 6)):
        editor.edit(EDITS[begin:end])
        saved[end] = state_digest(editor.state_dict())
    for edits, digest in saved.items():
        assert state_digest(rolled_back(editor, edits).state_dict()) == digest
    gone_on = rolled_back(editor, 2)
    gone_on.edit(EDITS[2:4])
    assert state_digest(gone_on.state_dict()) == saved[4]
    assert rolled_back(editor, 0).edits_applied == 0
    assert state_digest(editor.state_dict()) == saved[6]


def test_where_no_batch_ended_there_is_no_state(base: Base) -> None:
    editor = make("memit", base)
    editor.edit(EDITS[:4])
    with pytest.raises(ConfigError, match="no batch ended after 3 edits; of 4 the nearest ends are 2 and 4"):
        rolled_back(editor, 3)
    with pytest.raises(ConfigError, match="elder keeps no earlier states"):
        rolled_back(make_editor("elder", base, layers=(1, 2, 3)), 2)
