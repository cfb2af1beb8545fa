"""Memory of MELO by hand: GPT2-XL, width 1600, inner 6400; batches of 4 edits, blocks of rank 2 in two maps."""

from __future__ import annotations

from elder.pipelines.config.run import parse_config
from elder.pipelines.planning.memory import adapter_parameters, estimate, formulas
from elder.pipelines.planning.shapes import model_shape

ONE = 2 * 2 * (1600 + 6400)  # parameters of a block


def test_blocks_and_keys_are_counted() -> None:
    text = "editor: {method: melo, layers: [36, 37], target: TARGET}\ndata: {edits: 1000}\nstream: {batch_size: 4}"
    shape = model_shape("openai-community/gpt2-xl")
    for target, key in (("auto", 6400), ("mlp_in", 6400), ("mlp_out", 1600)):
        config = parse_config(text.replace("TARGET", target))
        assert estimate(config, shape)[0].adapters == 8 * (250 * ONE + 4 * 1000 * key) + 16 * ONE
        assert adapter_parameters(config, shape) == 250 * ONE
        assert any("2 prompts an edit" in line for line in formulas(config))
