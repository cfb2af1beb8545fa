"""Memory of the methods that start from gradients, in use and in training, by arithmetic: UltraEdit, MEND, MALMEN.

The formulas are in the docstrings and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.planning.shapes import ModelShape

ANSWER_TOKENS = 8  # assumed length of an answer; real ones are known only after tokenising
PROMPT_TOKENS = 64  # of a prompt with its answer, as in `memory`
FORMULAS = (
    "adapters: maps x 4 x (width x inner + edits x tokens x (width + inner)), 8 tokens an answer, 64 if all count; a "
    "batch takes no more than its matrix",
)
TRAINING_FORMULAS = (
    "adapters: 16 bytes a parameter of the network (fp32 weight, gradient, two Adam moments), and for each map the "
    "factors of a block and three matrices of its size",
)


def reads_factors(config: StagedConfig) -> bool:
    """Whether the method is one of these; its options show it, so that nothing heavy is imported."""
    return {"tokens", "loss", "modules"} <= set(config.editor.options)


def is_trained(config: StagedConfig) -> bool:
    """Whether this is the training of one of them."""
    return "n_edits" in config.editor.options


def factor_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """State of edits in float32: of each map D (d, m) and, for every batch, factors of rank min(tokens, d, m)."""
    options, size = config.editor.options, config.stream.batch_size
    if is_trained(config):
        return training_factor_bytes(config, shape, blocks)
    tokens = ANSWER_TOKENS if options["tokens"] == "answer" else PROMPT_TOKENS
    rank = min(size * tokens, shape.width, shape.inner)
    batches = -(-(config.data.edits or 0) // size)
    return _maps(config, shape, blocks) * 4 * (shape.width * shape.inner + batches * rank * (shape.width + shape.inner))


def training_factor_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """The network with Adam, a block's factors, and D, its gradient and the gain of every map.

    The network of one shape, s = d + m wide, has for each residual block 2 s rank + s weights and 2 s for every map.
    """
    options, width, maps = config.editor.options, shape.width + shape.inner, _maps(config, shape, blocks)
    one = 2 * width * min(int(options["rank"]), width) + width + 2 * width * maps
    tokens = int(options["n_edits"]) * (ANSWER_TOKENS if options["tokens"] == "answer" else PROMPT_TOKENS)
    return int(options["blocks"]) * one * 16 + maps * 4 * (3 * shape.width * shape.inner + tokens * width)


def _maps(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    return blocks * (2 if config.editor.options["modules"] == "mlp_in" and shape.gated else 1)
