"""Loading without values: what a load of these files would give, known before anything large is read.

transformers builds the model from its config and is handed the headers of the files in place of their tensors. So its
own rules decide about renamed, merged and tied tensors. What it would fill with random values, cut or leave out
is refused here, by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging
from transformers.utils.import_utils import is_accelerate_available

from elder.errors import ModelError
from elder.models.checkpoint import Checkpoint
from elder.models.foreign import NO_CODE

SHOWN = 3  # names in a message; the rest is counted


@dataclass(frozen=True)
class Expected:
    """What a plain load in one process gives; every other way to load must give the same.

    Attributes:
        formats: Number format of every parameter, by name.
        ties: Parameter -> the parameter that it is, where the config ties two.
        stored: Number formats of the files' floating-point tensors.
        rows: Of the embedding, where the model has one of the common kind.
    """

    formats: Mapping[str, torch.dtype]
    ties: Mapping[str, str]
    stored: frozenset[torch.dtype]
    rows: int | None


def rehearse(config: Any, checkpoint: Checkpoint, dtype: torch.dtype, source: str) -> Expected | None:
    """Load the headers as if they were the weights.

    Args:
        config: The model's config.
        checkpoint: From `elder.models.checkpoint.read_checkpoint`.
        dtype: The number format that will be asked for.
        source: The name of the model, for messages.

    Returns:
        What the load must give. None where that cannot be known beforehand (a quantized model, or accelerate is not
        installed): then `refuse_incomplete` judges what transformers reports after it has read everything.

    Raises:
        ModelError: Tensors are missing, have another shape, or belong to a part that the config does not know.
    """
    if not is_accelerate_available() or getattr(config, "quantization_config", None) is not None:
        return None
    with quiet():
        with torch.device("meta"):
            kind: Any = type(AutoModelForCausalLM.from_config(config, **NO_CODE))  # type: ignore[no-untyped-call]
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(checkpoint.tensors),
            dtype=dtype,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    refuse_incomplete(model, info, checkpoint.tensors, source)
    return Expected(
        {name: parameter.dtype for name, parameter in model.named_parameters(remove_duplicate=False)},
        dict(model.all_tied_weights_keys),
        frozenset(header.dtype for header in checkpoint.tensors.values() if header.is_floating_point()),
        rows_of(model),
    )


def rows_of(model: PreTrainedModel) -> int | None:
    """How many rows a model's embedding has, where it is of the common kind."""
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    return rows if isinstance(rows, int) else None


def refuse_incomplete(
    model: PreTrainedModel, info: Mapping[str, Any], headers: Mapping[str, Tensor], source: str
) -> None:
    """Judge transformers' report of a load.

    Args:
        model: The model, with or without values.
        info: Its report (`output_loading_info`).
        headers: The tensors of the files, by name.
        source: The name of the model, for messages.

    Raises:
        ModelError: See `rehearse`.
    """
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        raise ModelError(
            f"model.source: '{source}': '{name}' has shape {tuple(stored)} in the file, config.json asks for "
            f"{tuple(wanted)}; the config belongs to another model"
        )
    missing = info["missing_keys"]
    if missing:
        raise ModelError(
            f"model.source: '{source}' lacks {len(missing)} tensors of the model that its config.json describes: "
            f"{named(missing)}. Its files hold {len(headers)}{_depths(model, headers)}. Random values would take "
            "their place, different at each load: get the whole checkpoint, or the config that belongs to it"
        )
    spare = sorted(name for name in info["unexpected_keys"] if not _harmless(headers.get(name)))
    homeless = [name for name in spare if _belongs_inside(model, name)]
    if homeless:
        raise ModelError(
            f"model.source: '{source}' holds {len(homeless)} tensors that have no place in the model that its "
            f"config.json describes: {named(homeless)}{_depths(model, headers)}. Without them it is another model: "
            "get the config that belongs to it"
        )
    if spare:
        warnings.warn(
            f"model.source: '{source}' holds {len(spare)} tensors of parts that a causal language model does not "
            f"have; they are left out: {named(spare)}",
            stacklevel=2,
        )


def named(names: Collection[str]) -> str:
    """A few names in quotes, and how many more there are."""
    first = sorted(names, key=_natural)[:SHOWN]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in first) + more


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Block 9 before block 10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


def _harmless(header: Tensor | None) -> bool:
    """Causal masks, fill values and position tables, which older releases saved beside the weights."""
    if header is None:
        return False
    return not header.is_floating_point() or header.numel() <= 1 or (header.dim() == 4 and header.shape[:2] == (1, 1))


def _belongs_inside(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor belongs to a part that the model has: one of its modules, or a list of blocks."""
    modules = dict(model.named_modules())
    for full in (name, f"{model.base_model_prefix}.{name}"):
        parts = full.split(".")
        if ".".join(parts[:-1]) in modules:
            return True
        for end in range(1, len(parts) - 1):
            if isinstance(modules.get(".".join(parts[:end])), nn.ModuleList) and parts[end].isdigit():
                return True
    return False


def _depths(model: PreTrainedModel, headers: Mapping[str, Tensor]) -> str:
    """How many blocks the config asks for and the files hold, where that differs."""
    asked = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    numbers = {int(part) for name in headers for part in name.split(".") if part.isdigit()}
    held = max(numbers, default=-1) + 1
    if asked is None or held in (0, asked):
        return ""
    return f" (config.json asks for {asked} blocks, the files hold {held})"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report and progress bar: our message says the same more clearly."""
    speech: Any = logging
    level, bar = speech.get_verbosity(), speech.is_progress_bar_enabled()
    speech.set_verbosity_error()
    speech.disable_progress_bar()
    try:
        yield
    finally:
        speech.set_verbosity(level)
        if bar:
            speech.enable_progress_bar()
