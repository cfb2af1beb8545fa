"""Loading a base model, its tokenizer and its config. Knows nothing of editing."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from elder.base import Base
from elder.chat import chat_of
from elder.device import pick_device, pick_dtype
from elder.errors import ModelError
from elder.models.checkpoint import Checkpoint, read_checkpoint
from elder.models.foreign import NO_CODE, check_config, check_json_files, refusing
from elder.models.host_memory import give_back_memory
from elder.models.loaded import check_loaded, check_tokenizer
from elder.models.made import ensure_made, is_made
from elder.models.one_copy import one_copy
from elder.models.peft_adapters import CONFIG as ADAPTER_CONFIG
from elder.models.peft_adapters import REMEDY, Adapter, attach, find_adapter, is_adapted, merged
from elder.models.rehearsal import Expected, refuse_incomplete, rehearse, rows_of
from elder.paths import check_plain_below, user_path
from elder.runtime import LocalRuntime, Runtime, together

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def load_base(
    source: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    runtime: Runtime | None = None,
    cache_dir: str | Path | None = None,
    chat: str = "auto",
    system: str | None = None,
) -> Base:
    """Load a base model, frozen and in eval mode.

    Args:
        source: `world:small` (the embedded world's model, trained on first use), a short name (`elder models`; fetched
            on first use), a directory in the hub's layout, a GGUF file (converted on first use), or a hub id.
        revision: Commit or branch of a hub id.
        dtype: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N; ignored when a runtime is given, which has its own.
        runtime: The group of processes that holds the model; default: this process alone.
        cache_dir: Where what is made on first use is kept; default: the user's cache.
        chat: `auto`: prompts go through the tokenizer's chat template if it has one; `on`: it must have one; `off`;
            `both`: as `on`, and edits are trained and measured as plain texts too.
        system: Text of a system message before each prompt, where there is a chat template.

    Raises:
        UnreachableError: A named model is not here yet and cannot be fetched.
        ModelError: No such directory or hub id, no weights in it, no tokenizer, or not a causal language model.
        ConfigError: Unknown dtype, device or chat.
    """
    torch_dtype = pick_dtype(dtype)
    if runtime is None:
        runtime = LocalRuntime(pick_device(device))
    place = resolve_source(source, cache_dir)
    adapter = together(lambda: _editable_adapter(place, source, revision, runtime), runtime)
    if adapter is None:
        model, commit = _load_model(place, source, revision, torch_dtype, runtime)
    else:
        below = together(lambda: model_below(adapter, source, cache_dir), runtime)
        model, _ = _load_model(below, adapter.base, adapter.revision, torch_dtype, runtime)
        commit = None
        model = together(lambda: merged(attach(model, adapter, source), source), runtime)
        check_loaded(model, None, runtime, source, torch_dtype)
    tokenizer = together(lambda: load_tokenizer(source, revision, cache_dir), runtime)
    if not runtime.sharded:
        model = model.to(runtime.device)  # type: ignore[arg-type]
    base = wrap_base(model, tokenizer, source, runtime, commit or revision, chat, system)
    if runtime.world_size > 1:
        _ = base.digest  # computed by one rank for all, here where all are: later, rank 0 may save alone
    give_back_memory()
    return base


def _editable_adapter(place: str, source: str, revision: str | None, runtime: Runtime) -> Adapter | None:
    """The PEFT adapter that is asked for, if it is one.

    Raises:
        ModelError: It cannot be merged where its base model is sharded.
    """
    adapter = find_adapter(place, source, revision)
    if adapter is not None and runtime.sharded:
        raise ModelError(
            f"model.source: '{source}' is a PEFT adapter, which cannot be merged into a model that is sharded "
            f"(cluster.sharding=zero3); {REMEDY}"
        )
    return adapter


def model_below(adapter: Adapter, source: str, cache_dir: str | Path | None) -> str:
    """Directory or hub id of the model that an adapter was trained on.

    Raises:
        ModelError: It is an adapter again, or is not there.
    """
    below = resolve_source(adapter.base, cache_dir)
    if find_adapter(below, adapter.base, adapter.revision) is not None:
        raise ModelError(
            f"model.source: '{source}' is a PEFT adapter whose base model '{adapter.base}' is an adapter, too; "
            "merge the one below into its model first, and name that"
        )
    return below


def read_headers(
    place: str, source: str, revision: str | None, dtype: torch.dtype
) -> tuple[Any, Checkpoint, Expected | None]:
    """Config, headers, and what a load of them must give.

    Raises:
        ModelError: They are damaged, or do not fit together.
    """
    check_json_files(place, source)
    config = _from_pretrained(AutoConfig, place, source, revision=revision)
    named = getattr(config, "transformers_weights", None)
    checkpoint = read_checkpoint(place, source, revision, named)
    check_config(config, source, len(checkpoint.tensors))
    with refusing(source, "AutoModelForCausalLM"):
        return config, checkpoint, rehearse(config, checkpoint, dtype, source)


def _load_model(
    place: str, source: str, revision: str | None, dtype: torch.dtype, runtime: Runtime
) -> tuple[PreTrainedModel, str | None]:
    """A whole model, as its files say it, and its commit if it comes from the hub. Collective.

    Raises:
        ModelError: Something is missing, damaged, or not what the config says; named, on every rank.
    """

    config, checkpoint, expected = together(lambda: read_headers(place, source, revision, dtype), runtime)
    options = {"revision": revision, "dtype": dtype, "output_loading_info": True}
    with one_copy(place, checkpoint, expected, dtype, runtime) as directory, runtime.loading(dtype):
        model, info = _from_pretrained(AutoModelForCausalLM, directory, source, **options)
    model.config.name_or_path = config.name_or_path  # not the directory that is gone
    together(lambda: refuse_incomplete(model, info, checkpoint.tensors, source), runtime)
    check_loaded(model, expected, runtime, source, dtype)
    return model, checkpoint.commit


def wrap_base(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    runtime: Runtime | None = None,
    revision: str | None = None,
    chat: str = "auto",
    system: str | None = None,
) -> Base:
    """Freeze a model that is in memory already and make a `Base` of it.

    A model that PEFT adapted (a PeftModel, or what is inside) is merged into a copy first and stays as it is. So does
    the tokenizer: where it has no padding token, the base gets a copy that pads with the end token. `chat` and `system`
    are those of `load_base`.

    Raises:
        ModelError: The tokenizer has ids that the model has no embedding for, or nothing to pad with; or adapters
            cannot be merged.
    """
    if is_adapted(model):
        if runtime is not None and runtime.sharded:
            raise ModelError(f"'{source}': a PEFT model cannot be merged while it is sharded; {REMEDY}")
        model = merged(model, source)
    check_tokenizer(rows_of(model), tokenizer, source)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)  # the user's own stays as it is
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    commit = getattr(model.config, "_commit_hash", None) or revision
    here = runtime or LocalRuntime(next(model.parameters()).device)
    return Base(model, tokenizer, source, here, commit, chat_of(tokenizer, chat, system))


def resolve_source(source: str, cache_dir: str | Path | None = None) -> str:
    """The directory or hub id to load from; what is made on first use is made; checks a directory's files.

    Raises:
        ModelError: The directory does not exist, or lacks its config, weights or tokenizer; or see `ensure_made`.
        UnreachableError: A named model is not here yet and cannot be fetched.
    """
    if is_made(source):
        return str(ensure_made(source, cache_dir))
    path = user_path(source, ModelError)
    looks_local = source.startswith((".", "~", os.sep)) or source.count("/") > 1 or path.exists()
    if not looks_local:
        return source
    if not path.is_dir():
        raise ModelError(f"model.source: there is no directory '{source}'")
    check_plain_below(path, ModelError)
    if (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file():
        return str(path)  # a PEFT adapter: its base model has the rest
    if not (path / "config.json").is_file():
        raise ModelError(f"model.source: '{source}' has no config.json; expected a model directory in the hub's layout")
    if not any(next(path.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise ModelError(
            f"model.source: '{source}' has no weights (expected model.safetensors, or model-*.safetensors and an index)"
        )
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise ModelError(
            f"model.source: '{source}' has no tokenizer (expected tokenizer.json, tokenizer.model or vocab.json)"
        )
    return str(path)


def load_config(source: str, revision: str | None = None, cache_dir: str | Path | None = None) -> Any:
    """The architecture config alone, without weights; of a PEFT adapter, that of its base model.

    Raises:
        ModelError: It cannot be found.
    """
    place = resolve_source(source, cache_dir)
    adapter = find_adapter(place, source, revision)
    if adapter is not None:
        model_below(adapter, source, cache_dir)
        return load_config(adapter.base, adapter.revision, cache_dir)
    check_json_files(place, source)
    config = _from_pretrained(AutoConfig, place, source, revision=revision)
    check_config(config, source)
    return config


def load_tokenizer(
    source: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer alone; of a PEFT adapter that has none, that of its base model.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    place = resolve_source(source, cache_dir)
    adapter = find_adapter(place, source, revision)
    if adapter is not None and not any((adapter.place / name).exists() for name in TOKENIZER_FILES):
        model_below(adapter, source, cache_dir)
        return load_tokenizer(adapter.base, adapter.revision, cache_dir)
    check_json_files(place, source)
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, place, source, revision=revision)
    with refusing(source, "AutoTokenizer"):
        tokenizer("A")  # values that are wrong show when they are used
    return tokenizer


def _from_pretrained(factory: Any, place: str, source: str, **options: Any) -> Any:
    given = {name: value for name, value in options.items() if value is not None}
    with refusing(source, factory.__name__):
        return factory.from_pretrained(place, **given, **NO_CODE)
