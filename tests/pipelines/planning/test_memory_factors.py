"""Memory of UltraEdit, MEND and MALMEN, in use and in training, by hand: LLaMA2-7B, m = 11008, d = 4096."""

from __future__ import annotations

from elder.pipelines.config.run import parse_config
from elder.pipelines.config.training import parse_train_config
from elder.pipelines.planning.memory import adapter_parameters, estimate, formulas
from elder.pipelines.planning.shapes import model_shape
from elder.pipelines.training.driver import recommended_sharding

LLAMA = "meta-llama/Llama-2-7b-hf"
MATRIX, BOTH = 4096 * 11008, 4096 + 11008


def test_changes_of_gradient_editors_are_counted() -> None:
    text = "editor: {method: METHOD, layers: [4, 5]EXTRA}\ndata: {edits: 1000}\nstream: {batch_size: 10}"
    shape = model_shape(LLAMA)

    def adapters(method: str, extra: str = "") -> int:
        config = parse_config(text.replace("METHOD", method).replace("EXTRA", extra))
        assert adapter_parameters(config, shape) == 0
        assert any("8 tokens an answer" in line for line in formulas(config))
        return estimate(config, shape)[0].adapters

    assert adapters("ultraedit") == 2 * 4 * (MATRIX + 100 * 80 * BOTH)
    assert adapters("ultraedit", ", modules: mlp_in") == 2 * adapters("ultraedit")
    assert adapters("mend", ", trained: none") == 2 * 4 * (MATRIX + 100 * 640 * BOTH)  # all 64 tokens of a prompt
    whole = parse_config(
        "editor: {method: ultraedit, layers: [4, 5]}\ndata: {edits: 1000}\nstream: {stage_size: 1000, batch_size: 1000}"
    )
    assert estimate(whole, shape)[0].adapters == 2 * 4 * (MATRIX + 4096 * BOTH)  # no more than the matrix


def test_a_training_is_sharded_when_its_model_does_not_fit() -> None:
    text = f"""
training: {{steps: 1}}
model: {{source: {LLAMA}, dtype: bfloat16}}
editor: {{method: malmen, layers: [30, 31], n_edits: 100, rank: 1000, blocks: 2}}
cluster: {{workers: 4, sharding: SHARDING, gpus_per_worker: 1}}
"""
    config = parse_train_config(text.replace("SHARDING", "auto"))
    network = 2 * (2 * BOTH * 1000 + BOTH + 2 * BOTH * 2)
    wanted = 16 * network + 2 * 4 * (3 * MATRIX + 100 * 8 * BOTH)
    assert estimate(config, model_shape(LLAMA))[0].adapters == wanted
    assert any("parameter of the network" in line for line in formulas(config))
    assert recommended_sharding(config, 80 * 2**30)[0] == "none"
    assert recommended_sharding(config, 12 * 2**30)[0] == "zero3"
    chosen = parse_train_config(text.replace("SHARDING", "zero3"))
    assert recommended_sharding(chosen, 80 * 2**30) == ("zero3", "cluster.sharding says so")
    alone = parse_train_config(text.replace("workers: 4", "workers: 0").replace("SHARDING", "auto"))
    assert recommended_sharding(alone, 2**30)[0] == "none"
