"""A compiled edited model answers with its edits: what the hooks do is done anew in every pass."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from elder.base import Base
from elder.edited.model import tell_apart
from elder.editors.make import make_editor
from tests.elder.edited.talk import INSIDE, OUTSIDE, Alone, inputs_of, said
from tests.elder.editors.test_contract import SMALL
from tests.elder.tiny import EDITS, logits_of, padded
from tests.methods import small

KINDS: dict[str, dict[str, Any]] = {
    "elder": {},
    "elder, routed above a plain block": {"layers": (2, 3)},
    "elder-plus": {},
    "ultraedit": {"layers": (1, 2)},  # block 0 is compiled first, and is not edited
}


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def editor_of(kind: str, base: Base) -> Any:
    method = kind.split(",")[0]
    editor = make_editor(method, base, **{**small(method, **SMALL), **KINDS[kind]})
    editor.edit(EDITS[:2])
    return editor


@pytest.mark.parametrize("kind", [k if k == "elder-plus" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_a_compiled_model_is_edited(base_of: Callable[..., Base], kind: str) -> None:
    base = base_of("llama")
    editor = editor_of(kind, base)
    compiled = torch.compile(editor.model, backend="eager")
    for prompts in ([INSIDE[0], OUTSIDE[0]], [OUTSIDE[0], INSIDE[0]]):  # of one shape: the second runs what is there
        inputs = padded(base, prompts)
        wanted, plain = logits_of(editor.model, inputs), logits_of(base.model, inputs)
        torch.testing.assert_close(logits_of(compiled, inputs), wanted, atol=1e-5, rtol=1e-5)
        assert (wanted - plain).abs().max() > 1e-2
        with editor.disabled():
            torch.testing.assert_close(logits_of(compiled, inputs), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["elder-plus"])
def test_a_compiled_forward_decodes(loud_of: Callable[..., Any], alone_of: Callable[..., Alone], method: str) -> None:
    """As transformers' pages say it: a static cache, and `model.forward` compiled."""
    loud, alone = loud_of(method, "llama"), alone_of(method, "llama")
    model = copy.deepcopy(loud.model)
    model.forward = torch.compile(model.forward, backend="eager")
    prompts = [INSIDE[0], OUTSIDE[0]]
    assert said(model, inputs_of(loud.base, prompts), 4, cache_implementation="static") == alone.each(prompts, 4)


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_maps_that_are_told_apart_are_what_they_were(how: str) -> None:
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    tell_apart([one])
    kind = type(one)
    tell_apart([one])
    assert type(one) is kind is not type(other)
    assert isinstance(one, nn.Linear)
    assert (kind.__name__, kind.__module__) == ("Linear", nn.Linear.__module__)
    twin = copy.deepcopy(one) if how == "copied" else pickle.loads(pickle.dumps(one))
    assert type(twin) is kind
    assert torch.equal(twin.weight, one.weight)
    assert twin.weight is not one.weight


@pytest.mark.parametrize("how", ["itself", "copied", "pickled"])
def test_hooks_of_maps_that_are_told_apart_run_in_their_forward(how: str) -> None:
    one, x = nn.Linear(2, 2), torch.ones(1, 2)
    one.register_forward_pre_hook(_Doubles())
    one.register_forward_hook(_Adds())
    wanted = nn.functional.linear(2 * x, one.weight, one.bias) + 1
    tell_apart([one])
    assert one.after  # torch itself has nothing to call any more
    twin = {
        "itself": lambda: one,
        "copied": lambda: copy.deepcopy(one),
        "pickled": lambda: pickle.loads(pickle.dumps(one)),
    }
    assert torch.equal(twin[how]()(x), wanted)


@pytest.mark.parametrize("special", ["with_kwargs", "always_call", "a forward of its own"])
def test_other_hooks_stay_where_they_are(special: str) -> None:
    one, x = nn.Linear(2, 2), torch.ones(1, 2)
    wanted = one(x) + 1
    if special == "a forward of its own":  # as accelerate gives it to a map that lies on another device
        one.forward = one.forward  # type: ignore[method-assign]
        one.register_forward_hook(_Adds())
    else:
        one.register_forward_hook(lambda *args: args[-1] + 1, **{special: True})  # type: ignore[arg-type]
    tell_apart([one])
    assert not one.after
    assert torch.equal(one(x), wanted)


class _Doubles:
    def __call__(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return 2 * args[0]


class _Adds:
    def __call__(self, _: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return output + 1
