"""Small options of every method for tests: a new method needs one entry in `TABLE`, and no test keeps a table itself.

A test asks for `small(METHOD, ...)` and says by the names of options what it needs otherwise, so that what it says
holds for methods that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elder.registry import options_class

Options = dict[str, Any]
FOUND: Options = {
    "steps": 6, "lr": 0.5, "clamp": 20.0, "decay": 0.1, "stop": 1.0, "jitter": 0.1, "contexts": 2, "context_tokens": 4,
    "batch_size": 3, "text_tokens": None,
}  # fmt: skip
"""What methods that find values share."""
STRONG: Options = {"layers": (1, 2), "steps": 30, "lr": 1.0}
MIXED: Options = {"layers": (2, 3), "rank": 2, "experts": 4, "steps": 40, "lr": 1e-2}


@dataclass(frozen=True)
class Small:
    """One method.

    Attributes:
        options: For models of four blocks and streams of a few edits. The golden numbers are computed with them, so a
            change here changes `tests/golden/golden.json`.
        strong: Instead of them, options with which one edit is enough for its fact to be said by a random model.
        training: How its network is trained, of a method that has one.
    """

    options: Options
    strong: Options
    training: Options = field(default_factory=dict)


TABLE: Mapping[str, Small] = {
    "elder": Small(
        {"layers": (1, 2, 3), "rank": 2, "steps": 8, "lr": 3e-3, "batch_size": 3, "epsilon": 4},
        {**MIXED, "experts": 20, "top_k": 4, "epsilon": 1},
    ),
    "elder-plus": Small(
        {
            "layers": (2, 3), "rank": 2, "experts": 4, "parameters_per_edit": 300, "steps": 6, "extra_steps": 4,
            "lr": 1e-2, "batch_size": 3, "replay": 4, "replay_pool": 2,
        },
        {
            **MIXED, "parameters_per_edit": 0, "extra_steps": 0, "replay": 0, "subject_threshold": 0.95,
            "answer_threshold": 0.95,
        },
    ),
    "melo": Small(
        {"layers": (2, 3), "rank": 2, "steps": 8, "lr": 1e-2, "batch_size": 3, "radius": 0.05},
        {"layers": (2, 3), "rank": 2, "steps": 40, "lr": 1e-2, "radius": 0.05},
    ),
    "rome": Small({**FOUND, "layers": (1,), "batch_size": 1}, {**STRONG, "layers": (2,)}),
    "memit": Small({**FOUND, "layers": (1, 2), "ridge": 0.1}, {**STRONG, "ridge": 1e-2}),
    "emmet": Small({**FOUND, "layers": (1, 2), "ridge": 0.1}, {**STRONG, "ridge": 0.0}),
    "alphaedit": Small(
        {**FOUND, "layers": (1, 2), "ridge": 0.1, "threshold": 0.5, "relative": True},
        {**STRONG, "ridge": 1e-2, "threshold": 5.0, "relative": True},
    ),
    "ultraedit": Small({"layers": (1, 3), "lr": 2e-3, "batch_size": 3}, {"layers": (1, 3), "lr": 2e-2}),
    "mend": Small(
        {"trained": "none", "layers": (1, 3), "lr": 3e-2, "batch_size": 3},
        {"trained": "none", "layers": (1, 3), "lr": 0.1},
        {"layers": [1, 3], "rank": 4, "lr": 1e-2, "meta_lr": 1e-3, "accumulate": 1},
    ),
    "malmen": Small(
        {"trained": "none", "layers": (1, 3), "lr": 0.3, "batch_size": 3, "modules": "mlp_in"},
        {"trained": "none", "layers": (1, 3), "lr": 0.3},
        {"layers": [1, 3], "rank": 4, "lr": 1e-2, "meta_lr": 1e-3, "chunk": 8},
    ),
}  # fmt: skip


def small(method: str, **named: Any) -> Options:
    """Small options of a method, with those of `named` that it has."""
    return {**TABLE[method].options, **known(method, **named)}


def strong(method: str, **named: Any) -> Options:
    """Those of `named` that the method has, and over them what makes one edit enough."""
    return {**known(method, **named), **TABLE[method].strong}


def known(method: str, **named: Any) -> Options:
    """Of these options those that the method has."""
    fields = options_class(method).model_fields
    return {name: value for name, value in named.items() if name in fields}


def having(option: str) -> list[str]:
    """The methods that have an option of this name."""
    return [method for method in TABLE if option in options_class(method).model_fields]
