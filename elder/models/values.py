"""Are the values of a model numbers? Of tensors in memory, and of the files of a small model before they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from elder.errors import ModelError
from elder.models.checkpoint import Checkpoint, read_pickled
from elder.models.rehearsal import Expected, named
from elder.tensor_files import open_safetensors

CHUNK = 2**22  # elements that are looked at in one go: tens of megabytes
MOST_BYTES = 2**30  # of a model whose files are read through before a run; a larger one is judged while it is loaded


def chunks(values: Tensor) -> Iterator[Tensor]:
    """A tensor's values in pieces of `CHUNK`."""
    flat = values.detach().reshape(-1)
    for begin in range(0, flat.numel(), CHUNK):
        yield flat[begin : begin + CHUNK]


def count_not_numbers(values: Tensor) -> int:
    """How many values are NaN or infinite."""
    broken = 0
    for chunk in chunks(values) if values.is_floating_point() else ():
        total = chunk.sum(dtype=torch.promote_types(chunk.dtype, torch.float32))  # one of them spoils the sum
        if not bool(torch.isfinite(total)):
            broken += int((~torch.isfinite(chunk)).sum())  # 0 if the sum itself was too large
    return broken


def check_stored(checkpoint: Checkpoint, expected: Expected | None, dtype: torch.dtype, source: str) -> None:
    """Look at the values in the files of a small model, as they will be loaded.

    Nothing is looked at where the files have more than `MOST_BYTES`, or where it is not known beforehand what a load
    gives: then `elder.models.loaded` refuses the same after reading.

    Args:
        checkpoint: The files.
        expected: What a load gives.
        dtype: The number format that was asked for.
        source: How the user calls the model.

    Raises:
        ModelError: Some are NaN or infinite, or become so in their number format; or tensors that the config ties have
            different values.
    """
    if expected is None or sum(file.stat().st_size for file in checkpoint.files) > MOST_BYTES:
        return
    without_prefix = {name.partition(".")[2]: name for name in expected.formats}  # as files of a model without head
    bad: dict[str, int] = {}
    tied: dict[str, Tensor] = {}
    both = {*expected.ties, *expected.ties.values()}
    for file in checkpoint.files:
        for name, values in _stored(file, checkpoint.tensors):
            own = name if name in expected.formats else without_prefix.get(name)
            if own is None or not values.is_floating_point():
                continue
            if own in both:
                tied[own] = values
            broken = sum(count_not_numbers(chunk.to(expected.formats[own])) for chunk in chunks(values))
            if broken:
                bad[own] = broken
    if bad:
        raise ModelError(not_finite_message(bad, source, dtype, expected))
    for name, other in expected.ties.items():
        if name in tied and other in tied and not torch.equal(tied[name], tied[other]):
            raise ModelError(tied_message(source, name, other))


def _stored(file: Path, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a weight file whose header has been read, one after the other."""
    if file.suffix == ".safetensors":
        with open_safetensors(file, ModelError) as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping: it only has keys()
                yield name, opened.get_tensor(name)
        return
    yield from ((name, value) for name, value in read_pickled(file).items() if name in names)


def not_finite_message(bad: dict[str, int], source: str, dtype: torch.dtype, expected: Expected | None) -> str:
    """The sentence about values that are no numbers.

    Args:
        bad: Tensor -> how many of them it has.
        source: How the user calls the model.
        dtype: The number format that was asked for.
        expected: What a plain load gives, if that is known.
    """
    name = next(iter(bad))
    text = (
        f"model.source: '{source}': {len(bad)} tensors hold values that are no numbers (NaN or infinite): "
        f"'{name}' has {bad[name]:,} of them"
    )
    text += f" ({named(bad)})" if len(bad) > 1 else ""
    if dtype == torch.float16 and (expected is None or expected.stored - {torch.float16}):
        return text + ". The files may hold values beyond 65,504, which float16 cannot: use model.dtype=bfloat16"
    return text + ". The checkpoint is damaged; get it again"


def tied_message(source: str, name: str, other: str) -> str:
    """The sentence about two tensors of the files that are one by the config."""
    return (
        f"model.source: '{source}': the files hold '{name}' and '{other}' with different values, config.json ties "
        "them (tie_word_embeddings), which makes them one. Set it to false in config.json if both were trained; "
        f"or remove '{name}' from the files if it is left over from before they were tied"
    )
