"""Models of the hub that are in its cache on this machine, whole. Asks no server."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file

from elder.errors import ModelError
from elder.json_text import read_object

CONFIGS = ("config.json", "adapter_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")


def find_snapshot(name: str, revision: str | None = None, weights: bool = True) -> Path | None:
    """The directory in the hub's cache that holds a model or a PEFT adapter; None where a file of it is missing.

    Args:
        name: OWNER/NAME.
        revision: Commit or branch.
        weights: Whether its weights must be there, too.
    """
    for config in CONFIGS:
        try:
            found = cached_file(
                name, config, revision=revision, local_files_only=True, _raise_exceptions_for_missing_entries=False
            )
        except (OSError, ValueError):
            return None
        if found is not None:
            directory = Path(found).parent
            if config == "config.json" and not any((directory / file).is_file() for file in TOKENIZERS):
                return None
            return directory if not weights or _has_weights(directory) else None
    return None


def _has_weights(directory: Path) -> bool:
    """Whether all are there; a download that was cut off is resumed when the model is loaded."""
    for name in WEIGHTS:
        if (directory / name).is_file():
            return True
        index = directory / f"{name}.index.json"
        if index.is_file():
            return all((directory / shard).is_file() for shard in _shards(index))
    return False


def _shards(index: Path) -> set[str]:
    """The files that an index names inside of its directory; what is wrong with it is found when it is read."""
    try:
        named = read_object(index, ModelError, foreign=True)["weight_map"]
        return {name for name in named.values() if isinstance(name, str) and ".." not in Path(name).parts}
    except (ModelError, LookupError, AttributeError):
        return set()
