"""Memory of the baselines by hand: LLaMA2-7B, m = 11008, d = 4096."""

from __future__ import annotations

from elder.pipelines.config.run import parse_config
from elder.pipelines.planning.memory import edited_blocks, estimate, formulas
from elder.pipelines.planning.shapes import model_shape

SHAPE = model_shape("meta-llama/Llama-2-7b-hf")
MATRIX, BOTH = 4096 * 11008, 4096 + 11008


def adapters(method: str, extra: str = "") -> int:
    config = parse_config(f"editor: {{method: {method}{extra}}}\ndata: {{edits: 1000}}")
    assert not any("no formula" in line for line in formulas(config))
    return estimate(config, SHAPE)[0].adapters


def test_fine_tuning_holds_what_it_trains_whatever_the_stream() -> None:
    assert adapters("ft") == MATRIX * 24
    assert adapters("ft", ", layers: [20, 21], modules: mlp_in") == 4 * MATRIX * 24
    assert adapters("ft-l") == MATRIX * 24
    assert adapters("lora") == 6 * (8 * BOTH * 20 + MATRIX * 12)


def test_a_store_of_texts_grows_with_the_stream_and_edits_no_block() -> None:
    config = parse_config("editor: {method: lookup}")
    assert edited_blocks(config, SHAPE) == ()
    assert adapters("lookup") == 1000 * 3 * 2048
    assert adapters("lookup", ", rephrases: false") == 1000 * 2048
    backward = parse_config("editor: {method: ft}")
    assert estimate(config, SHAPE)[0].training < estimate(backward, SHAPE)[0].training
