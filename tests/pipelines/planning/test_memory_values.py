"""Memory of GRACE by hand: GPT2-XL, width 1600, inner 6400; batches of 4 edits."""

from __future__ import annotations

from elder.pipelines.config.run import parse_config
from elder.pipelines.planning.memory import adapter_parameters, estimate, formulas
from elder.pipelines.planning.shapes import model_shape


def test_keys_and_values_are_counted() -> None:
    text = "editor: {method: grace, layers: [35], target: TARGET}\ndata: {edits: 1000}\nstream: {batch_size: 4}"
    shape = model_shape("openai-community/gpt2-xl")
    for target, value in (("auto", 6400), ("mlp_in", 6400), ("mlp_out", 1600)):
        config = parse_config(text.replace("TARGET", target))
        assert estimate(config, shape)[0].adapters == 8 * 2 * 1000 * (1600 + 6400) + 16 * 2 * 4 * value
        assert adapter_parameters(config, shape) == 2 * 1000 * value
        assert any("2 prompts an edit x (key + value)" in line for line in formulas(config))
