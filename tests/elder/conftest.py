"""Tiny base models, and editors that have learnt a few edits, made once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from elder.base import Base, Editor
from elder.editors.make import make_editor
from elder.state import pack_json, unpack_json
from elder.tokens import encode_target
from tests.double import in_double
from tests.elder.edited.talk import Alone
from tests.elder.tiny import EDITS, FAMILIES, METHODS, OPTIONS, PUSH, make_base


@pytest.fixture(scope="session")
def base_of() -> Callable[..., Base]:
    """A shared tiny base model by family and dtype."""
    return cache(lambda family, dtype=torch.float32: make_base(family, dtype))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(base_of: Callable[..., Base], family: str) -> Iterator[Base]:
    """Shared: a test that asks it for hidden states leaves hooks there, and no later test can pickle it."""
    base = base_of(family)
    yield base
    hooked = any("output_capturing" in name for module in base.model.modules() for name in vars(module))
    assert not hooked, "ask a copy for hidden states (tests.elder.tiny.states_of)"


@pytest.fixture
def double(family: str) -> Iterator[Base]:
    """A base in float64, in which the whole test computes: what differs there is a fault and not rounding."""
    with in_double():
        yield make_base(family, torch.float64)


@pytest.fixture
def fresh(base: Base, method: str) -> Callable[..., Editor]:
    """Make an editor without edits on the base of this test; options may be overridden."""
    return lambda **options: make_editor(method, base, **{**OPTIONS[method], **options})


@pytest.fixture(scope="session")
def edited_once(base_of: Callable[..., Base]) -> Callable[..., Editor]:
    """An editor that has learnt the first four edits in two batches. Shared: tests must not change it."""

    @cache
    def make(method: str, family: str, dtype: torch.dtype = torch.float32) -> Editor:
        editor = make_editor(method, base_of(family, dtype), **OPTIONS[method])
        editor.edit(EDITS[:4])
        return editor

    return make


@pytest.fixture
def edited(edited_once: Callable[..., Editor], method: str, family: str) -> Editor:
    return edited_once(method, family)


LOUD = {"elder": 12.0, "elder-plus": 3.0}  # so much larger are the maps of `loud_of`
ALWAYS = -1e6  # nats: whatever the base says, it is as likely as that


@pytest.fixture(scope="session")
def loud_of(edited_once: Callable[..., Editor]) -> Callable[..., Editor]:
    """The editor of `edited_once` with larger maps, so that a correction that is lost shows. Tests must not change it.

    Routing does not read the maps, so the scope is the same. Elder-plus asks the base about every other edit, which
    always agrees, and pushes answers that have been begun: some of them to their end, some not far enough.
    """

    @cache
    def make(method: str, family: str, dtype: torch.dtype = torch.float32) -> Editor:
        quiet = edited_once(method, family, dtype)
        agreed = {"ask_base": ALWAYS, "answer_bias": PUSH} if method == "elder-plus" else {}
        editor = make_editor(method, quiet.base, **OPTIONS[method], **agreed)
        state = quiet.state_dict()
        if agreed:
            state["answers.old"][::2] = 5
            answers = [encode_target(quiet.base.texts, edit.prompt, edit.target) for edit in EDITS]
            known = zip(unpack_json(state["known"]), answers, strict=False)
            state["known"] = pack_json([{**record, "said": [answer]} for record, answer in known])
        for name in state:
            if name.startswith("mixtures.") and name.endswith(".b"):
                state[name] = state[name] * LOUD[method]
        editor.load_state_dict(state)
        return editor

    return make


@pytest.fixture
def loud(loud_of: Callable[..., Editor], method: str, family: str) -> Editor:
    return loud_of(method, family)


@pytest.fixture(scope="session")
def alone_of(loud_of: Callable[..., Editor]) -> Callable[..., Alone]:
    """What the model of `loud_of` answers to a prompt alone."""
    return cache(lambda method, family: Alone(loud_of(method, family).base, loud_of(method, family).model))


@pytest.fixture
def alone(alone_of: Callable[..., Alone], method: str, family: str) -> Alone:
    return alone_of(method, family)
