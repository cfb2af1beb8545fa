"""The shape of a base model from its config alone: no weight is read, no file written, no model trained.

The module tree is built on torch's meta device, which allocates nothing. torch is imported when a shape is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elder.errors import ModelError
from elder.models.gguf_files import gguf_config, is_gguf
from elder.models.named import NAMED
from elder.paths import user_path

# Configs of the models our documentation runs, so that planning needs neither network nor licence click.
# Facts of the published config.json files.
DOCUMENTED: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "openai-community/gpt2-xl": {
        "model_type": "gpt2",
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
        "vocab_size": 50257,
        "n_positions": 1024,
    },
    "EleutherAI/gpt-j-6b": {
        "model_type": "gptj",
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "vocab_size": 50400,
        "n_positions": 2048,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class ModelShape:
    """The measures of a decoder that planning needs; counts are parameters, widths are features.

    Attributes:
        origin: Where the numbers come from, for people.
        parameters: All of them, tied ones once.
        blocks: Depth.
        width: Residual stream (D).
        inner: Inner width of the MLP (I).
        key_width: Width of all keys of a block (K), less than `width` under grouped-query attention.
        vocabulary: Tokens.
        positions: Longest context, in tokens.
        gated: Whether MLPs have a gate (Llama) or not (GPT-2).
        block_parameters: Of the largest block.
        embedding_parameters: Of the largest parameter outside of the blocks.
    """

    origin: str
    parameters: int
    blocks: int
    width: int
    inner: int
    key_width: int
    vocabulary: int
    positions: int
    gated: bool
    block_parameters: int
    embedding_parameters: int


def model_shape(source: str, revision: str | None = None, model_config: Any = None) -> ModelShape:
    """The shape of a base model.

    Args:
        source: `world:NAME`, a short name, a GGUF file, a directory, or a hub id: taken from the local hub cache,
            else from our table of documented models, else asked of the hub.
        revision: Commit or branch of a hub id.
        model_config: A transformers config that is there already; then nothing is looked up.

    Raises:
        ModelError: There is no config to be had, or it is no decoder that we can edit.
    """
    if model_config is not None:
        return _measure(model_config, "the given config")
    config, origin = _config(source, revision)
    return _measure(config, origin)


def _config(source: str, revision: str | None) -> tuple[Any, str]:
    if source.startswith("world:"):
        return _world_config(source), "the recipe of the generated world"
    from transformers import AutoConfig

    if source in NAMED:
        return _listed_config(NAMED[source].config), "elder's table of named models"
    if is_gguf(source):
        return gguf_config(source), source
    if user_path(source).is_dir():
        from elder.models.load import load_config

        return load_config(source), f"{source}/config.json"
    try:
        return AutoConfig.from_pretrained(source, revision=revision, local_files_only=True), "the local hub cache"
    except (OSError, ValueError):
        pass
    if source in DOCUMENTED:
        return _listed_config(DOCUMENTED[source]), "elder's table of documented models"
    from elder.models.load import load_config

    return load_config(source, revision), "the hub"


def _listed_config(keys: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    known = dict(keys)
    return AutoConfig.for_model(known.pop("model_type"), **known)


def _world_config(source: str) -> Any:
    from transformers import LlamaConfig

    from elder.world.recipe import find_recipe

    shape = find_recipe(source).shape
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
    )


def _measure(config: Any, origin: str) -> ModelShape:
    import torch
    from transformers import AutoModelForCausalLM

    from elder.models.anatomy import anatomy

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (ValueError, AttributeError) as error:
        raise ModelError(f"model.source: {type(config).__name__} is not a causal language model: {error}") from error
    parts = anatomy(model)
    in_blocks = {id(p) for block in parts.blocks for p in block.parameters()}
    outside = [p.numel() for p in model.parameters() if id(p) not in in_blocks]
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        origin=origin,
        parameters=sum(p.numel() for p in model.parameters()),
        blocks=len(parts.blocks),
        width=parts.width,
        inner=parts.inner,
        key_width=head * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        vocabulary=text.vocab_size,
        positions=text.max_position_embeddings,
        gated=parts.gated,
        block_parameters=max(sum(p.numel() for p in block.parameters()) for block in parts.blocks),
        embedding_parameters=max(outside, default=0),
    )
