"""The report of a training: its checkpoints, their figures on the validation facts, the loss, the config.

Plain dicts in, files out. Knows nothing of stores, trackers or the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.pipelines.pages.page import Block, Code, Heading, Picture, Table, Text, to_html, to_markdown
from elder.pipelines.pages.plots import curves

SCORES = ("ES", "GS", "LS", "agreement", "loss", "edit_loss", "locality_loss")
MEANING = (
    "After one block was applied and before it was taken back, teacher-forced, share of answer tokens that are right: "
    "ES on the edited prompts, GS on other wordings of them, LS on unrelated prompts against the data's answers; "
    "agreement: with what the unedited model says to those. Means over all validation facts."
)


def training_blocks(result: Mapping[str, Any], losses: Sequence[float], title: str, config: str) -> list[Block]:
    """The page of a training.

    Args:
        result: The result of the driver.
        losses: The loss of every step.
        title: Name of the training.
        config: The resolved config as YAML.
    """
    adapter, registered = result["adapter"], result.get("registered")
    facts = [
        ("training", result["run_id"]),
        ("method", result["method"]),
        ("config digest", result["config_digest"]),
        ("base model", result["base_model"]["id"]),
        ("base digest", result["base_model"]["digest"]),
        ("chosen checkpoint", str(result["chosen"])),
        ("trained editor", adapter["uri"]),
        ("registered as", f"models:/{registered['name']}/{registered['version']}" if registered else None),
    ]
    stages = result["stages"]
    names = [name for name in SCORES if any(f"validation.{name}" in stage["metrics"] for stage in stages)]
    rows = [
        (
            stage["stage"],
            sum(int(earlier["edits"]) for earlier in stages[: place + 1]),
            "yes" if stage["committed"] else "no",
            *(stage["metrics"].get(f"validation.{name}") for name in names),
            str(stage["state_digest"])[:12],
        )
        for place, stage in enumerate(stages)
    ]
    blocks: list[Block] = [Heading(title, 1), Table(("", ""), [fact for fact in facts if fact[1] is not None])]
    blocks += [Heading("Checkpoints"), Text(MEANING)]
    blocks.append(Table(("checkpoint", "facts seen", "committed", *names, "state"), rows))
    scores = {name: [row[3 + names.index(name)] for row in rows] for name in SCORES[:4] if name in names}
    for name, lines, axis, caption in (
        ("validation.png", scores, "checkpoint", "Validation after every checkpoint"),
        ("loss.png", {"loss": list(losses)}, "step", "Loss of every step"),
    ):
        png = curves(lines, axis, caption)
        if png is not None:
            blocks.append(Picture(name, png, caption))
    blocks += [Heading("Time"), Table(("what", "value"), [(name, float(v)) for name, v in result["timing"].items()])]
    return [*blocks, Heading("Config"), Code(config, "yaml")]


def write_training_report(
    directory: Path, result: Mapping[str, Any], losses: Sequence[float], title: str, config: str
) -> None:
    """Write report.md, report.html and plots/ into a directory; arguments as in `training_blocks`."""
    blocks = training_blocks(result, losses, title, config)
    (directory / "report.md").write_text(to_markdown(blocks), encoding="utf-8")
    (directory / "report.html").write_text(to_html(blocks, title), encoding="utf-8")
    for block in blocks:
        if isinstance(block, Picture):
            path = directory / "plots" / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(block.png)
