"""Memory of plain fine-tuning, by arithmetic: LoRA, FT-L, breadth-first fine-tuning.

The formulas are in the docstrings and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.planning.shapes import ModelShape

TRAINED_BYTES = 24  # change, gradient, two moments of Adam, the change before the batch and the one that answers
LOW_RANK_BYTES = 20  # the same, but what answers is the product
PRODUCT_BYTES = 12  # the product that answers, the one that is trained, and its gradient
FORMULAS = (
    "adapters: maps x width x inner x 24 (fp32 change, gradient, two Adam moments, and two copies); of a LoRA maps x "
    "(rank x (width + inner) x 20 + width x inner x 12)",
)


def fine_tunes(config: StagedConfig) -> bool:
    """Whether the method is one of these; its options show it, so that nothing heavy is imported."""
    return {"epochs", "step_edits"} <= set(config.editor.options)


def tuned_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """What is trained and what answers, of all maps; it does not grow with the stream."""
    options, matrix = config.editor.options, shape.width * shape.inner
    maps = blocks * (2 if options["modules"] == "mlp_in" and shape.gated else 1)
    if "rank" not in options:
        return maps * matrix * TRAINED_BYTES
    low = int(options["rank"]) * (shape.width + shape.inner)
    return maps * (low * LOW_RANK_BYTES + matrix * PRODUCT_BYTES)
