"""Memory of GRACE, by arithmetic: a key and a value for each prompt of an edit.

The formula is in the docstring and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.planning.shapes import ModelShape

PROMPTS = 2  # of an edit that are trained, assumed: its own and one rephrase
FORMULAS = (
    "adapters: 2 x 4 bytes x 2 prompts an edit x (key + value), since buffers grow by doubling, and 16 bytes a number "
    "of the values in training",
)


def keeps_values(config: StagedConfig) -> bool:
    """Whether the method stores keys and values; its options show it, so that nothing heavy is imported."""
    return {"replacement", "radius"} <= set(config.editor.options)


def value_bytes(config: StagedConfig, shape: ModelShape) -> int:
    """Keys (k) and values (v), float32: 8 x 2 E (k + v) + 16 x 2 B v, for E edits in batches of B.

    k is the width of the input of the replaced map, v that of its output.
    """
    key, value = _widths(config, shape)
    edits = config.data.edits or 0
    return 8 * PROMPTS * edits * (key + value) + 16 * PROMPTS * config.stream.batch_size * value


def value_parameters(config: StagedConfig, shape: ModelShape) -> int:
    """Trained numbers of all edits: 2 E v."""
    return PROMPTS * (config.data.edits or 0) * _widths(config, shape)[1]


def _widths(config: StagedConfig, shape: ModelShape) -> tuple[int, int]:
    target = config.editor.options["target"]
    leaves = target == "mlp_out" or (target == "auto" and shape.gated)
    return (shape.inner, shape.width) if leaves else (shape.width, shape.inner)
