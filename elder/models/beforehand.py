"""What can be known of a model before it is loaded, from its files on this machine. Makes nothing."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from elder.device import pick_dtype
from elder.models.load import load_config, load_tokenizer, model_below, read_headers, resolve_source
from elder.models.loaded import check_tokenizer
from elder.models.made import find_made, is_made
from elder.models.peft_adapters import check_adapter, find_adapter
from elder.models.snapshots import find_snapshot
from elder.models.values import check_stored


def check_files(
    source: str,
    dtype: str = "float32",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Find out from the files that are here whether a model would load; nothing is made.

    Configs and headers are judged as `load_base` does, values only where a look at them is cheap: those of an adapter,
    and of a model with files of at most `elder.models.values.MOST_BYTES`.

    Args:
        source: As for `load_base`; what is not here yet is left to it.
        dtype: As for `load_base`.
        revision: Commit or branch of a hub id.
        cache_dir: As for `load_base`.
        tokenizer: That of the model, if it has been loaded already.

    Raises:
        ModelError: As `load_base`.
    """
    place = here(source, revision, cache_dir)
    if place is None:
        return
    adapter = find_adapter(place, source)
    if adapter is None:
        _, checkpoint, expected = read_headers(place, source, None, pick_dtype(dtype))
        check_stored(checkpoint, expected, pick_dtype(dtype), source)
        rows = None if expected is None else expected.rows
        check_tokenizer(rows, load_tokenizer(place) if tokenizer is None else tokenizer, source)
        return
    below = here(model_below(adapter, source, cache_dir), adapter.revision, cache_dir)
    if below is not None:
        check_files(adapter.base, dtype, adapter.revision, cache_dir)
        check_adapter(adapter, load_config(below), source)


def here(
    source: str, revision: str | None = None, cache_dir: str | Path | None = None, weights: bool = True
) -> str | None:
    """The directory of a model that is on this machine; None where it is to be fetched or made.

    Args:
        source: As for `load_base`.
        revision: Commit or branch of a hub id.
        cache_dir: As for `load_base`.
        weights: Whether those of a model of the hub must be here, too, not only its tokenizer.

    Raises:
        ModelError: There is no such directory, or it lacks files.
    """
    if is_made(source):
        kept = find_made(source, cache_dir)
        return None if kept is None else str(kept)
    place = resolve_source(source)
    if Path(place).is_dir():
        return place
    snapshot = find_snapshot(place, revision, weights)
    if snapshot is None:
        return None
    adapter = find_adapter(str(snapshot), source)
    below = adapter is None or here(adapter.base, adapter.revision, cache_dir, weights)
    return str(snapshot) if below else None
