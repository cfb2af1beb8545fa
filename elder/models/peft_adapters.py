"""Models that were tuned with PEFT (LoRA and its kin): an adapter directory, or a model that carries adapters.

Editing needs plain maps, so what was tuned is merged into a copy of the weights that it changes; the user's model stays
as it is. PEFT is optional: merging in memory asks the layers that are there, only a directory needs the library.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from elder.errors import ModelError
from elder.json_text import read_object
from elder.models.checkpoint import read_pickled
from elder.models.foreign import NO_CODE
from elder.models.rehearsal import named
from elder.tensor_files import not_finite, read_tensors

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there is what peft loads
CERTAIN = (
    "not installed",
    "size mismatch",
    "lacks tensors",
    "not found in the base model",
    "should be",
    "instances of",
)
"""What peft's errors say that a model with values would say too."""
REMEDY = "merge it yourself: `tuned.merge_and_unload().save_pretrained(DIR)`, and give DIR"


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk or on the hub.

    Attributes:
        place: Its directory.
        base: The model that it was trained on: a directory or a hub id.
        revision: Commit or branch of that model, if the adapter names one.
    """

    place: Path
    base: str
    revision: str | None


def find_adapter(place: str, source: str, revision: str | None = None) -> Adapter | None:
    """The PEFT adapter that a directory or hub id is; None if it is a whole model.

    Raises:
        ModelError: It is both, or its config does not say what it was trained on.
    """
    directory = Path(place)
    if directory.is_dir():
        config, whole = directory / CONFIG, (directory / "config.json").is_file()
    else:
        try:
            quietly = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
            whole = cached_file(place, "config.json", **quietly) is not None
            found = cached_file(place, CONFIG, **quietly)
        except (OSError, ValueError):
            return None  # nothing is there: loading the model says so
        config = Path(found) if found else directory / CONFIG
    if not config.is_file():
        return None
    if whole:
        raise ModelError(
            f"model.source: '{source}' holds a whole model and a PEFT adapter ({CONFIG}) beside it; which is meant? "
            "Move the adapter's files into a directory of their own, or remove them if they are merged already"
        )
    try:
        values = read_object(config, ModelError, foreign=True)
        base, of = values["base_model_name_or_path"], values.get("revision")
    except (ModelError, KeyError):
        base = of = None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"model.source: '{source}' is a PEFT adapter whose {CONFIG} does not name its base model "
            f"(base_model_name_or_path); enter it there, or {REMEDY}"
        )
    return Adapter(config.parent, base, of if isinstance(of, str) else None)


def attach(model: PreTrainedModel, adapter: Adapter, source: str) -> Any:
    """Put an adapter from disk onto its base model, in place.

    Returns:
        A PeftModel.

    Raises:
        ModelError: PEFT is not installed, or the adapter cannot be read, or it lacks tensors.
    """
    peft = _peft(source)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tuned = peft.PeftModel.from_pretrained(model, str(adapter.place))
    except Exception as error:  # whatever peft raises on a damaged or foreign adapter
        raise _cannot_load(source, error) from error
    lacking = [text for warning in caught if "missing adapter keys" in (text := str(warning.message))]
    if lacking:
        raise ModelError(f"model.source: the PEFT adapter '{source}' lacks tensors: {lacking[0][:300]}")
    return tuned


def _peft(source: str) -> Any:
    """The library.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise ModelError(
            f"model.source: '{source}' is a PEFT adapter and peft is not installed: pip install 'elder[peft]'; "
            f"or {REMEDY}"
        ) from error


def _cannot_load(source: str, error: Exception) -> ModelError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    reason = " ".join(line.strip() for line in said[:2])  # the first of torch's lines does not say what is wrong
    return ModelError(f"model.source: the PEFT adapter '{source}' cannot be loaded: {reason[:300]}")


def is_adapted(model: nn.Module) -> bool:
    """Whether a model contains PEFT adapters, or is wrapped in one."""
    return any(_of_peft(module) for module in model.modules())


def merged(model: Any, source: str) -> PreTrainedModel:
    """A plain model that computes what an adapted one computes now; the given one is left as it is.

    Weights that no adapter touches are shared with it, the others are copied.

    Args:
        model: A PeftModel, or the transformers model inside of one.
        source: Its name, for messages.

    Raises:
        ModelError: These adapters are no change of weights, or PEFT refuses to merge them.
    """
    inner = _inner(model, source)
    own = _copy(inner)
    try:
        for name, layer in list(_outermost(own)):
            parent, _, child = name.rpartition(".")
            setattr(own.get_submodule(parent), child, _plain(layer))
    except (ValueError, NotImplementedError, AttributeError, RuntimeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"'{source}': its PEFT adapter cannot be merged: {reason[:300]}; {REMEDY}") from error
    if is_adapted(own):
        raise ModelError(f"'{source}': its PEFT adapters are nested and cannot be merged here; {REMEDY}")
    for left in ("peft_config", "_hf_peft_config_loaded"):
        own.__dict__.pop(left, None)
    return own


def check_adapter(adapter: Adapter, config: Any, source: str) -> None:
    """Find out from an adapter's files whether they fit the model that they were trained on, without that model.

    Args:
        adapter: In a directory on this machine.
        config: transformers' config of its base model.
        source: How the user calls the adapter.

    Raises:
        ModelError: As `attach`, or values are not finite, or its kind changes no weights.
    """
    try:
        _peft(source).PeftConfig.from_pretrained(str(adapter.place))
    except ModelError:
        raise
    except Exception as error:  # whatever peft raises on a config that is not its own
        raise _cannot_load(source, error) from error
    file = next((adapter.place / name for name in WEIGHTS if (adapter.place / name).is_file()), None)
    if file is None:  # peft would ask the hub
        raise ModelError(f"model.source: the PEFT adapter '{source}' has no weights (expected {' or '.join(WEIGHTS)})")
    try:
        tensors = read_tensors(file, ModelError) if file.suffix == ".safetensors" else read_pickled(file)
        bad = not_finite(tensors)
    except Exception as error:  # a pickle may have torch raise whatever there is
        raise _cannot_load(source, error) from error
    if bad:
        raise ModelError(
            f"model.source: the PEFT adapter '{source}': {len(bad)} tensors hold values that are no numbers (NaN or "
            f"infinite): {named(bad)}; get it again"
        )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, **NO_CODE)  # type: ignore[no-untyped-call]
    try:
        tuned = attach(model, adapter, source)
    except ModelError as error:  # a model without values cannot take every kind of adapter
        if any(words in str(error) for words in CERTAIN):
            raise
    else:
        _inner(tuned, source)


def _inner(model: Any, source: str) -> PreTrainedModel:
    """The transformers model inside of PEFT's wrappers.

    Raises:
        ModelError: Nothing in it is adapted.
    """
    inner = model
    while _of_peft(inner):
        children = dict(inner.named_children())  # attributes of PEFT's wrappers lead into the model itself
        inner = children.get("base_model", children.get("model"))
    if not isinstance(inner, PreTrainedModel) or not any(_outermost(inner)):
        raise ModelError(
            f"'{source}': {type(model).__name__} cannot be edited: its PEFT adapter adds to the prompt and changes no "
            "weights, so merge_and_unload does not apply. Edit its base model (tuned.get_base_model())"
        )
    return inner


def _of_peft(module: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "peft" for kind in type(module).__mro__)


def _outermost(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules that PEFT put in the place of the model's own, without what is inside of them."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        if _of_peft(module):
            inside = (*inside, f"{name}.")
            yield name, module


def _copy(inner: PreTrainedModel) -> PreTrainedModel:
    """A second module tree; parameters outside of the adapted modules are the same objects."""
    adapted = [module for _, module in _outermost(inner)]
    touched = {id(tensor) for module in adapted for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, Any] = {id(p): p for p in inner.parameters() if id(p) not in touched and not p.requires_grad}
    kept |= {id(b): b for b in inner.buffers() if id(b) not in touched}
    own: PreTrainedModel = copy.deepcopy(inner, kept)
    seen = {id(p) for name, p in own.named_parameters(remove_duplicate=False) if not _inside_adapted(own, name)}
    for _, layer in _outermost(own):
        for holder in layer.modules():  # a tied head is merged into a matrix of its own
            for name, parameter in list(holder.named_parameters(recurse=False)):
                if id(parameter) in seen:
                    setattr(holder, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
                    own.config.get_text_config().tie_word_embeddings = False
                    own.config.tie_word_embeddings = False
    return own


def _inside_adapted(model: nn.Module, name: str) -> bool:
    return name.startswith(tuple(f"{outer}." for outer, _ in _outermost(model)))


def _plain(layer: Any) -> Any:
    """The model's own module again, with what its active adapters add."""
    off = bool(getattr(layer, "disable_adapters", False))
    if hasattr(layer, "original_module"):  # trained as a whole and kept beside the first one
        trained = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        return layer.original_module if off else trained
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=not off, safe_merge=True, adapter_names=None)
    if off and layer.merged:
        layer.unmerge()
    elif not off:
        layer.merge(safe_merge=True)
    return layer.get_base_layer()
