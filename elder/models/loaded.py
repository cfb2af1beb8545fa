"""What a model must show after it was read: the tensors that were expected, and numbers in all of them.

Every check is collective: each rank looks at the values that it holds, and all ranks raise what one of them found.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from elder.errors import ModelError
from elder.models.rehearsal import Expected, named
from elder.models.values import chunks, count_not_numbers, not_finite_message, tied_message
from elder.runtime import Runtime, together


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


def check_tokenizer(rows: int | None, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer whose ids the model cannot read.

    Args:
        rows: Of the model's embedding, if that is known (`elder.models.rehearsal.rows_of`).
        tokenizer: Of the model.
        source: How the user calls it, for messages.

    Raises:
        ModelError: It has ids without a row in the embedding, or nothing to pad with.
    """
    if tokenizer.pad_token_id is None and tokenizer.eos_token is None:
        raise ModelError(f"'{source}': its tokenizer has neither a padding nor an end token; set one of them")
    if rows is None:
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
        raise ModelError(tied_message(source, name, other))
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
        broken = count_not_numbers(values)
        if broken:
            bad[name] = broken
    kept = {name for name in model.state_dict() if name not in sums}
    for name, buffer in model.named_buffers():
        if name in kept and bool(torch.isnan(buffer).any()):  # an infinite mask is no damage
            bad[name] = int(torch.isnan(buffer).sum())
    if bad:
        raise ModelError(not_finite_message(bad, source, dtype, expected))
    return sums


def _checksum(values: Tensor) -> int:
    """The sum of the bits, read as integers, modulo 2**64: equal weights have equal sums."""
    total = 0
    for chunk in chunks(values):
        size = chunk.element_size()
        if chunk.storage_offset() * size % 8:  # as it may lie in a mapped file
            chunk = chunk.clone()
        whole = chunk.numel() * size % 8 == 0
        total += int(chunk.view(torch.int64 if whole else torch.uint8).sum(dtype=torch.int64))
    return total % 2**64


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
