"""Memory of MELO, by arithmetic: a low-rank block for each batch of edits, and a key for each prompt.

The formula is in the docstring and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.planning.shapes import ModelShape

PROMPTS = 2  # of an edit that are trained, assumed: its own and one rephrase
FORMULAS = (
    "adapters: 2 x 4 bytes x (batches x maps x rank x (width + inner) + 2 keys of 2 prompts an edit), since buffers "
    "grow by doubling, and 16 bytes a parameter of the one block in training",
)


def keeps_blocks(config: StagedConfig) -> bool:
    """Whether the method adds blocks and keys; its options show it, so that nothing heavy is imported."""
    return {"rank", "scaling", "radius"} <= set(config.editor.options)


def block_bytes(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """Blocks of rank p in L maps (d, m) and keys, float32: 8 (B L p (d + m) + 2 x 2 E k) + 16 L p (d + m).

    E edits in B batches; k is the width of what the edited map puts out. A key is stored as a point and, alone in its
    cluster, as a centre.
    """
    target = config.editor.options["target"]
    key = shape.width if target == "mlp_out" or (target == "auto" and shape.gated) else shape.inner
    keys = 2 * PROMPTS * (config.data.edits or 0) * key
    return 8 * (block_parameters(config, shape, blocks) + keys) + 16 * _one(config, shape, blocks)


def block_parameters(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    """Trained parameters of all batches: B L p (d + m)."""
    batches = -(-(config.data.edits or 0) // config.stream.batch_size)
    return batches * _one(config, shape, blocks)


def _one(config: StagedConfig, shape: ModelShape, blocks: int) -> int:
    return blocks * int(config.editor.options["rank"]) * (shape.width + shape.inner)
