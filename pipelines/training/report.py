"""The report of a training: its checkpoints, their figures on the validation facts, the loss, the config.

Plain dicts in, files out. Knows nothing of stores, trackers or the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from elder.pipelines.pages.axes import Series, line_plot, numbered
from elder.pipelines.pages.page import write_page

SHARES = ("ES", "GS", "LS", "agreement")
SCORES = (*SHARES, "loss", "edit_loss", "locality_loss")


def training_context(result: Mapping[str, Any], losses: Sequence[float], title: str, config: str) -> dict[str, Any]:
    """The context of `templates/training.jinja`.

    Args:
        result: The result of the driver.
        losses: The loss of every step.
        title: Name of the training.
        config: The resolved config as YAML.
    """
    stages = result["stages"]
    validation = [{name: stage["metrics"].get(f"validation.{name}") for name in SCORES} for stage in stages]
    names = [name for name in SCORES if any(one[name] is not None for one in validation)]
    curves = [
        Series(name, [(place, one[name]) for place, one in enumerate(validation) if one[name] is not None], numbered(i))
        for i, name in enumerate(SHARES)
    ]
    loss = [Series("loss", list(enumerate(losses)), numbered(0))]
    return {
        "title": title,
        "config": config,
        "result": result,
        "names": names,
        "checkpoints": [
            (stage["stage"], seen, bool(stage["committed"]), *(one[name] for name in names), stage["state_digest"][:12])
            for stage, seen, one in zip(stages, accumulate(int(s["edits"]) for s in stages), validation, strict=True)
        ],
        "pictures": {
            "validation.png": line_plot(curves, "checkpoint", "share right", "Validation after every checkpoint"),
            "loss.png": line_plot(loss, "step", "loss", "Loss of every step"),
        },
    }


def write_training_report(
    directory: Path, result: Mapping[str, Any], losses: Sequence[float], title: str, config: str
) -> None:
    """Write report.md, report.html and plots/ into a directory; arguments as in `training_context`."""
    write_page(directory, "training", training_context(result, losses, title, config))
