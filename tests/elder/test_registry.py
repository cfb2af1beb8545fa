"""Methods and options by name: what is wrong is told all at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from elder.base import Base
from elder.editors.make import make_editor
from elder.errors import ConfigError
from elder.registry import METHODS, TRAINABLE, editor_class, make_options, make_training, method, options_class
from tests.methods import TABLE

ROOT = Path(__file__).resolve().parents[2]


def problems(name: str, **values: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        make_options(name, values)
    return caught.value.problems


def test_every_method_has_its_classes_and_documented_options() -> None:
    assert {"elder", "elder-plus", "rome", "memit", "emmet", "alphaedit"} <= set(METHODS)
    for name in METHODS:
        assert editor_class(name).method == name
        assert METHODS[name].summary
        options = options_class(name)
        assert options() == make_options(name, {})
        assert all(field.description for field in options.model_fields.values())


MOST = (
    ("elder", "rank", 16_384), ("elder", "steps", 1_000_000), ("elder", "lr", 1_000),
    ("elder-plus", "rank", 16_384), ("elder-plus", "steps", 1_000_000), ("elder-plus", "extra_steps", 1_000_000),
    ("elder-plus", "subject_tokens", 1_024), ("elder-plus", "lr", 1_000), ("memit", "steps", 1_000_000),
    ("memit", "contexts", 5), ("memit", "lr", 1_000), ("ultraedit", "lr", 1_000), ("malmen", "lr", 1_000),
)  # fmt: skip
MOST_IN_TRAINING = {"rank": 16_384, "blocks": 100, "lr": 1_000, "meta_lr": 1_000}


def test_options_beyond_reason_are_refused_before_they_cost_anything() -> None:
    """Sizes and counts that nobody means, by their options: memory and time follow from them without end."""
    for name, option, value in MOST:
        found = problems(name, **{option: value * 1.01 if option == "lr" else value + 1})
        assert any(option in problem and "is too large" in problem for problem in found), (name, option)
        if option != "rank":
            assert getattr(make_options(name, {option: value}), option) == value
    for option, value in MOST_IN_TRAINING.items():
        with pytest.raises(ConfigError, match=f"{option}: .* is too large"):
            make_training("malmen", {option: value + 1})
        assert getattr(make_training("malmen", {option: value}), option) == value


def test_tests_have_small_options_for_every_method() -> None:
    assert list(TABLE) == list(METHODS)
    for name, row in TABLE.items():
        make_options(name, row.options)
        make_options(name, row.strong)
        assert bool(row.training) == (name in TRAINABLE)


def test_the_papers_values_are_elders_defaults() -> None:
    o = make_options("elder", {})
    assert (o.rank, o.experts, o.top_k, o.lr, o.steps, o.batch_size) == (8, 4, 2, 1e-4, 50, 4)
    assert (o.guide_weight, o.epsilon, o.alpha, o.router_bias) == (1e-2, 12, None, True)


def test_unknown_methods_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'eldr'; did you mean 'elder'.*known: .*elder, elder-plus"):
        method("eldr")
    for function in (editor_class, options_class):
        with pytest.raises(ConfigError, match="unknown method 'romeo'"):
            function("romeo")


def test_all_wrong_keys_and_types_are_told_at_once() -> None:
    found = problems("elder", stepz=3, rank="many", target="nose", router_bias=1, layers="12", lr=None, quux=0)
    assert len(found) == 7
    text = "\n".join(found)
    assert "editor.stepz: 'elder' has no such option; did you mean 'steps'" in text
    assert "editor.rank: expected a whole number, found str 'many'" in text
    assert "editor.target: 'nose' is not one of auto, mlp_in, mlp_out" in text
    assert "editor.router_bias: expected true or false, found int 1" in text
    assert "editor.layers: expected a list of a whole number, found str '12'" in text
    assert "editor.lr: expected a number, found nothing" in text
    assert "editor.quux" in text


def test_all_impossible_values_are_told_at_once() -> None:
    found = problems("elder", rank=0, experts=2, top_k=3, lr=0, epsilon=-1, layers=[3, 3], guide_weight=-0.1, steps=-5)
    assert len(found) == 7
    for name in ("rank", "top_k", "lr", "epsilon", "layers", "guide_weight", "steps"):
        assert any(p.startswith(f"editor.{name}: ") for p in found), name


@pytest.mark.parametrize("layers", [[], [2, 1], [-1, 2], [1, 1]])
def test_layers_must_be_different_blocks_in_order(layers: list[int]) -> None:
    assert problems("elder", layers=layers)[0].startswith("editor.layers")


@pytest.mark.parametrize("query_layer", [2, 3])
def test_the_query_must_lie_below_the_first_edited_block(query_layer: int) -> None:
    assert problems("elder", layers=[2], query_layer=query_layer)[0].startswith("editor.query_layer")


@pytest.mark.parametrize("value", [2.5, True, float("inf"), float("nan"), "x", [1]])
def test_whole_numbers_are_whole(value: Any) -> None:
    told = "a list" if isinstance(value, list) else f"{type(value).__name__} {value!r}"
    assert problems("elder", steps=value) == (f"editor.steps: expected a whole number, found {told}",)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, "-1e-4"])
def test_learning_rates_are_positive_numbers(value: Any) -> None:
    assert problems("elder", lr=value)[0].startswith("editor.lr")


def test_values_of_a_file_become_typed() -> None:
    values = {"lr": "1e-4", "steps": 7.0, "layers": [1, 2], "subject_threshold": "0.5", "alpha": None}
    o = make_options("elder-plus", values)
    assert (o.lr, o.steps, o.layers, o.subject_threshold, o.alpha) == (1e-4, 7, (1, 2), 0.5, None)
    assert isinstance(o.steps, int)


def test_numbers_of_other_libraries_are_numbers() -> None:
    o = make_options("elder", {"lr": np.float32(0.5), "steps": np.int64(3), "layers": np.arange(2, 4)})
    assert (o.lr, o.steps, o.layers) == (0.5, 3, (2, 3))
    assert [type(value) for value in (o.lr, o.steps, *o.layers)] == [float, int, int, int]
    assert problems("elder", steps=np.bool_(True))[0].startswith("editor.steps: expected a whole number")


def test_options_of_our_method_are_checked_too() -> None:
    found = problems("elder-plus", replay=-1, prefixes=-1, replay_pool=0, subject_tokens=0, key_width=0, rank=0)
    assert len(found) == 6
    assert problems("elder", replay=3)[0].startswith("editor.replay: 'elder' has no such option")


def test_make_editor_refuses_the_same(base: Base) -> None:
    with pytest.raises(ConfigError, match="no such option"):
        make_editor("elder", base, ranks=2)


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_options("elder", {}).rank = 3


def test_listing_methods_and_checking_options_imports_no_torch() -> None:
    code = (
        "import sys; from elder.registry import *; "
        "[options_class(n)() for n in METHODS]; make_options('elder-plus', {'rank': 2}); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
