"""What other libraries make of a model's files: whatever they raise on a damaged or odd one is one clear error.

The files are read with the options that run no code of theirs. Knows nothing of what is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elder.errors import ElderError, ModelError
from elder.json_text import read_object

JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
MOST_BLOCKS = 10_000  # of a model; the deepest have some hundred
MOST_LABELS = 1_000_000  # of a classifier; transformers makes a name for each, whatever is loaded
NO_CODE = {"trust_remote_code": False}  # None would ask whoever sits at the terminal, and wait for an answer


@contextmanager
def refusing(source: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises inside of the block into one error.

    Args:
        source: How the user calls the model.
        what: What was loaded, for the message.

    Raises:
        ModelError: Something was raised. Errors of ours pass as they are.
    """
    try:
        yield
    except ElderError:
        raise
    except Exception as error:  # what they meet is described nowhere, so neither is what they raise
        raise cannot_load(source, what, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # so libraries written in Rust say that they met a bug of theirs
            raise
        raise cannot_load(source, what, error) from error


def cannot_load(source: str, what: str, error: BaseException) -> ModelError:
    """The error for a model that a library cannot load, with the first line of its reason."""
    said = str(error).strip()
    reason = said.splitlines()[0] if said else type(error).__name__
    return ModelError(f"model.source: '{source}' cannot be loaded ({what}): {reason[:500]}")


def check_json_files(place: str, source: str) -> None:
    """Look at the small files of a model's directory before libraries do; a hub id is left to them.

    transformers passes over a generation config that it cannot read, and the model's end tokens with it.

    Raises:
        ModelError: One of them is there and is no JSON object, or asks for labels without end; the file and the line
            are named.
    """
    for name in JSON_FILES:
        path = Path(place) / name
        if not path.is_file():
            continue
        try:
            found = read_object(path, ModelError, foreign=True)
        except ModelError as error:
            raise ModelError(f"model.source: '{source}': {name} cannot be read: {error}") from error
        labels = found.get("num_labels")
        if isinstance(labels, int) and labels > MOST_LABELS:
            raise ModelError(f"model.source: '{source}': {name} asks for {labels:.6g} labels, at most {MOST_LABELS:,}")


def check_config(config: Any, source: str, tensors: int | None = None) -> None:
    """Refuse a config that would have libraries build modules without end.

    Args:
        config: Of transformers.
        source: How the user calls the model.
        tensors: How many the model's files hold, if that is known.

    Raises:
        ModelError: It asks for more blocks than there can be.
    """
    with refusing(source, "config.json"):
        blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(blocks, int):
        return
    if blocks > MOST_BLOCKS:
        raise ModelError(f"model.source: '{source}': config.json asks for {blocks:.6g} blocks, at most {MOST_BLOCKS:,}")
    if tensors is not None and blocks > tensors:
        raise ModelError(
            f"model.source: '{source}': config.json asks for {blocks} blocks, the files hold {tensors} tensors; the "
            "config belongs to another model"
        )
