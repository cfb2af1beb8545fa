"""Memory of the methods that write weights by statistics of text, by arithmetic: ROME, MEMIT, EMMET, AlphaEdit.

The formulas are in the docstrings and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.planning.shapes import ModelShape

FORMULAS = (
    "statistics: blocks x inner^2 x 8 x matrices (C and its factor 2; a cache of keys 1 more; AlphaEdit 2 more)",
    "adapters: blocks x 4 x (width x inner + edits x (width + inner, and inner once more where keys are remembered))",
)


def takes_statistics(config: StagedConfig) -> bool:
    """Whether the method is one of these; its options show it, so that nothing heavy is imported."""
    return "text_tokens" in config.editor.options


def statistics_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """Memory of solving in float64, m x m a block: second moment and factor, Q of a cache, AlphaEdit's basis and Q."""
    if not takes_statistics(config) or config.editor.options.get("statistics") is False:
        return 0
    matrices = 2 + bool(config.editor.options.get("cache")) + 2 * (config.editor.method == "alphaedit")
    return blocks * shape.inner**2 * 8 * matrices


def change_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """State of edits in float32: D (d, m) a block, and for each of `data.edits` its factors and remembered key."""
    remembers = bool(config.editor.options.get("cache")) or config.editor.method == "alphaedit"
    one = shape.width + shape.inner * (2 if remembers else 1)
    return blocks * 4 * (shape.width * shape.inner + (config.data.edits or 0) * one)


def value_rows(config: StagedConfig) -> int:
    """Rows in one backward pass of the value optimisation on a worker: edits x (contexts + bare prompt + essence)."""
    options = config.editor.options
    contexts = int(options["contexts"])
    if config.editor.method == "rome" and contexts == 5:
        contexts = 20  # its own twenty texts
    edits = 1 if config.editor.method == "rome" else config.stream.batch_size
    return min(-(-edits // max(config.cluster.workers, 1)), int(options["value_batch"])) * (contexts + 2)
