"""The weight files of a model: which they are, whether they stay inside their directory, what their headers say.

Reads no values: a header of kilobytes tells the names, shapes and number formats of a file of gigabytes.
Knows nothing of modules; `elder.models.rehearsal` compares the headers with the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from elder.errors import ModelError
from elder.json_text import read_object
from elder.paths import user_path
from elder.tensor_files import open_safetensors

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ORDER = (SAFE, SAFE_INDEX, PICKLED, PICKLED_INDEX)  # the first that is there is what transformers loads
FORMATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Checkpoint:
    """What the weight files of a model hold.

    Attributes:
        files: The files in the order in which they are read.
        tensors: Name -> a tensor without values ("meta") of its shape and number format.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @property
    def commit(self) -> str | None:
        """The commit of a hub model, which its cache has in the path of every file; None for a directory."""
        found = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{40})/", self.files[0].as_posix())
        return found.group(1) if found else None


def read_checkpoint(place: str, source: str, revision: str | None = None, named: str | None = None) -> Checkpoint:
    """Find the weight files and read their headers.

    Args:
        place: A directory, or a hub id whose files are taken from the hub's cache or fetched.
        source: How the user calls it, for messages.
        revision: Commit or branch of a hub id.
        named: The file that the config names (`transformers_weights`), if it does.

    Raises:
        ModelError: An index leads out of the directory or is damaged; a file is missing or damaged; two files
            hold the same tensor.
    """
    find = _finder(place, source, revision)
    files = tuple(_weight_files(find, source, named))
    tensors: dict[str, Tensor] = {}
    home: dict[str, str] = {}
    for file in files:
        for name, header in _headers(file, source):
            if name in home:
                raise ModelError(
                    f"model.source: '{source}' holds '{name}' twice, in {home[name]} and in {file.name}; which of "
                    "them counts? Remove the shard that belongs to another save"
                )
            tensors[name], home[name] = header, file.name
    return Checkpoint(files, tensors)


def _finder(place: str, source: str, revision: str | None) -> Any:
    """A function from a file's name to its path, None where there is no such file."""
    directory = Path(place)
    if directory.is_dir():
        return lambda name: directory / name if (directory / name).is_file() else None

    def ask(name: str) -> Path | None:
        try:
            found = cached_file(place, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"model.source: '{source}' cannot be loaded ({name}): {reason[0]}") from error
        return Path(found) if found else None

    return ask


def _weight_files(find: Any, source: str, named: str | None) -> list[Path]:
    for name in (_contained(named, "config.json", source),) if named else ORDER:
        found = find(name)
        if found is None:
            continue
        if not name.endswith(".index.json"):
            return [found]
        return [_shard(find, shard, name, source) for shard in _shards(found, name, source)]
    raise ModelError(f"model.source: '{source}' has no {named or 'weights (expected ' + ' or '.join(ORDER) + ')'}")


def _shards(index: Path, name: str, source: str) -> list[str]:
    """The files that an index names, sorted as transformers reads them."""
    try:
        weight_map = read_object(index, ModelError, foreign=True)["weight_map"]
        files = list(weight_map.values())
    except (ModelError, KeyError, AttributeError) as error:
        raise ModelError(f"model.source: '{source}': {name} is no index: expected a JSON with a weight_map") from error
    if not files or not all(isinstance(file, str) for file in files):
        raise ModelError(f"model.source: '{source}': {name} is no index: its weight_map must name files")
    shards = sorted(set(files))
    for shard in shards:
        tensor = next(key for key, value in weight_map.items() if value == shard)
        _contained(shard, f"{name} (weight_map, '{tensor}')", source)
    return shards


def _contained(file: Any, said_by: str, source: str) -> str:
    """The name of a file, if it lies inside the directory.

    Links are followed: the owner of a directory makes them, and the hub's cache consists of them. The name comes
    with a download.
    """
    if not isinstance(file, str):
        raise ModelError(f"model.source: '{source}': {said_by} names no file, but has {type(file).__name__}")
    user_path(file, ModelError)
    posix, windows = PurePosixPath(file), PureWindowsPath(file)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
        raise ModelError(
            f"model.source: '{source}': {said_by} points to '{file}', outside of the model's directory; "
            "expected the name of a file beside it. Do not load this model before you know where it comes from"
        )
    return file


def _shard(find: Any, shard: str, index: str, source: str) -> Path:
    found = find(shard)
    if found is None:
        raise ModelError(f"model.source: '{source}' cannot be loaded: {index} names {shard}, which is not there")
    return Path(found)


def _headers(file: Path, source: str) -> Iterator[tuple[str, Tensor]]:
    """Names of a file's tensors, each with a tensor without values."""
    try:
        yield from _safe_headers(file) if file.suffix == ".safetensors" else _pickled_headers(file)
    except Exception as error:  # a pickle may have torch raise whatever there is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.source: '{source}' cannot be loaded: {file.name} is damaged: {reason[:500]}"
        ) from error


def _safe_headers(file: Path) -> Iterator[tuple[str, Tensor]]:
    with open_safetensors(file, ModelError) as opened:
        for name in opened.keys():  # noqa: SIM118  # no mapping: it only has keys()
            view = opened.get_slice(name)
            if view.get_dtype() not in FORMATS:
                raise ModelError(f"'{name}' has the number format {view.get_dtype()}, which torch does not have")
            yield name, torch.empty(view.get_shape(), dtype=FORMATS[view.get_dtype()], device="meta")


def _pickled_headers(file: Path) -> Iterator[tuple[str, Tensor]]:
    for name, value in read_pickled(file, "meta").items():
        if isinstance(value, Tensor):
            yield name, value


def read_pickled(file: Path, where: str = "cpu") -> Mapping[str, Any]:
    """What a pickle of weights holds, by name; no code of the file's is run.

    Args:
        file: The file.
        where: The device; "meta": without values.

    Raises:
        ModelError: It holds something else than names and tensors, or is no pickle of torch.
    """
    try:
        state = torch.load(file, map_location=where, weights_only=True)
    except UnpicklingError as error:  # torch advises to let the file run its code
        raise ModelError("it is cut off, or holds more than tensors, which only code of its own could read") from error
    if not isinstance(state, Mapping):
        raise ModelError(f"expected names and tensors, found {type(state).__name__}")
    return state
