"""Tiny base models, and editors that have learnt a few edits, made once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from elder.editors.base import Base, Editor
from elder.editors.make import make_editor
from tests.double import in_double
from tests.elder.tiny import EDITS, FAMILIES, METHODS, OPTIONS, make_base


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
def base(base_of: Callable[..., Base], family: str) -> Base:
    return base_of(family)


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
