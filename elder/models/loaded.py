"""What a model must show after it was read: the tensors that were expected, and numbers in all of them.

Every check is collective: each rank looks at the values that it holds, and all ranks raise what one of them found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from elder.errors import ModelError
from elder.models.rehearsal import Expected, named
from elder.runtime import Runtime, together

CHUNK = 2**22  # elements that are looked at in one go: tens of megabytes


def check_loaded(
    model: PreTrainedModel, expected: Expected | None, runtime: Runtime, source: str, dtype: torch.dtype
) -> None:
    """Compare a model with what was expected of it, and look at every value. Collective.

    Args:
        model: Just loaded; whole, or sharded by the runtime.
        expected: What a plain load gives, if that is known.
        runtime: Where the model lives.
        source: How the user calls it, for messages.
        dtype: The number format that was asked for.

    Raises:
        ModelError: On every rank.
    """
    if expected is not None:
        together(lambda: _check_parts(model, expected, source), runtime)
    sums: dict[str, int] = {}
    together(lambda: sums.update(_check_values(model, runtime, source, dtype, expected)), runtime)
    if runtime.world_size > 1 and not runtime.sharded:
        _check_replicas(runtime.gather_objects(sums), source)


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer whose ids the model cannot read.

    Raises:
        ModelError: It has ids without a row in the embedding.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if not isinstance(rows, int):
        return
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    outside = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (number in used or not _added_by_class(tokenizer, token))
    )
    if outside:
        number, token = outside[-1]
        raise ModelError(
            f"model.source: '{source}': the tokenizer has {len(outside)} tokens that the model has no embedding for: "
            f"its ids go up to {number} ('{token}'), the embedding has {rows} rows (0 to {rows - 1}). Give the "
            "tokenizer that belongs to the model, or enlarge it first (model.resize_token_embeddings)"
        )


def _added_by_class(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a token is in no file: some classes (Qwen2's) add one to every tokenizer."""
    file = Path(tokenizer.name_or_path) / "tokenizer.json"
    return file.is_file() and json.dumps(token, ensure_ascii=False) not in file.read_text(encoding="utf-8")


def _check_parts(model: PreTrainedModel, expected: Expected, source: str) -> None:
    """Names, number formats and ties.

    Raises:
        ModelError: Any of them is another one.
    """
    untied = {name: of for name, of in expected.ties.items() if name not in model.all_tied_weights_keys}
    for name, other in untied.items():
        raise ModelError(
            f"model.source: '{source}': the files hold '{name}' and '{other}' with different values, config.json ties "
            "them (tie_word_embeddings), which makes them one. Set it to false in config.json if both were trained; "
            f"or remove '{name}' from the files if it is left over from before they were tied"
        )
    found = {name: parameter.dtype for name, parameter in model.named_parameters(remove_duplicate=False)}
    strange = found.keys() ^ expected.formats.keys()
    if strange:
        raise ModelError(f"model.source: '{source}' was loaded with other parts than expected: {named(strange)}")
    other_format = [name for name, dtype in found.items() if dtype != expected.formats[name]]
    if other_format:
        name = other_format[0]
        raise ModelError(
            f"model.source: '{source}': {len(other_format)} parameters were loaded in another number format than in "
            f"one process: '{name}' in {found[name]}, expected {expected.formats[name]}. This model keeps parts of "
            "itself in float32: load it with model.dtype=float32, or without sharding (cluster.sharding=none)"
        )


def _check_values(
    model: PreTrainedModel, runtime: Runtime, source: str, dtype: torch.dtype, expected: Expected | None
) -> dict[str, int]:
    """Look at the values that this rank holds.

    Returns:
        Parameter -> its checksum; 0 where no other rank holds the same.

    Raises:
        ModelError: Some are NaN or infinite.
    """
    sums: dict[str, int] = {}
    bad: dict[str, int] = {}
    replicated = runtime.world_size > 1 and not runtime.sharded
    for name, parameter in model.named_parameters():
        values = runtime.local(parameter)
        sums[name] = _checksum(values) if replicated else 0
        broken = _not_numbers(values)
        if broken:
            bad[name] = broken
    kept = {name for name in model.state_dict() if name not in sums}
    for name, buffer in model.named_buffers():
        if name in kept and bool(torch.isnan(buffer).any()):  # an infinite mask is no damage
            bad[name] = int(torch.isnan(buffer).sum())
    if bad:
        raise ModelError(_not_finite(bad, source, dtype, expected))
    return sums


def _not_numbers(values: Tensor) -> int:
    """How many values are NaN or infinite."""
    broken = 0
    for chunk in _chunks(values) if values.is_floating_point() else ():
        total = chunk.sum(dtype=torch.promote_types(chunk.dtype, torch.float32))  # one of them spoils the sum
        if not bool(torch.isfinite(total)):
            broken += int((~torch.isfinite(chunk)).sum())  # 0 if the sum itself was too large
    return broken


def _checksum(values: Tensor) -> int:
    """The sum of the bits, read as integers, modulo 2**64: equal weights have equal sums."""
    total = 0
    for chunk in _chunks(values):
        size = chunk.element_size()
        if chunk.storage_offset() * size % 8:  # as it may lie in a mapped file
            chunk = chunk.clone()
        whole = chunk.numel() * size % 8 == 0
        total += int(chunk.view(torch.int64 if whole else torch.uint8).sum(dtype=torch.int64))
    return total % 2**64


def _chunks(values: Tensor) -> Iterator[Tensor]:
    flat = values.detach().reshape(-1)
    for begin in range(0, flat.numel(), CHUNK):
        yield flat[begin : begin + CHUNK]


def _not_finite(bad: dict[str, int], source: str, dtype: torch.dtype, expected: Expected | None) -> str:
    name = next(iter(bad))
    text = (
        f"model.source: '{source}': {len(bad)} tensors hold values that are no numbers (NaN or infinite): "
        f"'{name}' has {bad[name]:,} of them"
    )
    text += f" ({named(bad)})" if len(bad) > 1 else ""
    if dtype == torch.float16 and (expected is None or expected.stored - {torch.float16}):
        return text + ". The files may hold values beyond 65,504, which float16 cannot: use model.dtype=bfloat16"
    return text + ". The checkpoint is damaged; get it again"


def _check_replicas(sums: list[dict[str, int]], source: str) -> None:
    """Ranks that hold the whole model each must hold the same one.

    Raises:
        ModelError: On every rank.
    """
    for rank, other in enumerate(sums):
        differing = [name for name in sums[0] if other.get(name) != sums[0][name]]
        if differing:
            raise ModelError(
                f"model.source: '{source}' is not the same model on all workers: worker {rank} read other values than "
                f"worker 0 in {len(differing)} tensors: {named(differing)}. Put the same files on every node"
            )
