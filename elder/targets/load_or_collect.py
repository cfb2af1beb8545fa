"""The statistics an editor needs: from a cache, or else by one pass over a text.

Every rank comes to the same moments by the same collectives. Knows nothing of edits or updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from elder.base import Base
from elder.datasets.text import WORLD, check_text, read_text
from elder.errors import AdapterError, ConfigError, DataError, ModelError
from elder.models.anatomy import anatomy, dimensions
from elder.runtime import told_by_first
from elder.solvers.moments import SecondMoment
from elder.targets.moment_cache import MomentCache
from elder.targets.statistics import Windows, collect_moments, cut_windows, moment_id

LONGEST = 4096  # tokens of a document that are read at most, however long the model's context is

StatisticsProgress = Callable[[int, int], None]
"""Called while text is read with (rows done, rows) of this rank."""


def text_source(text: str | None, base_source: str) -> str:
    """Where the text of the statistics comes from.

    Args:
        text: `editor.text`.
        base_source: `model.source`; an embedded model brings its text.

    Raises:
        ConfigError: None is given, and the base model is no embedded one.
    """
    if text is not None:
        return text
    if base_source.startswith(WORLD):
        return base_source
    raise ConfigError(
        f"editor.text: this method weighs what it writes by statistics of ordinary text, and '{base_source}' brings "
        "none: give a file of text (.txt, .jsonl, either .gz) or hub:DATASET:CONFIG, such as "
        "hub:Salesforce/wikitext:wikitext-103-raw-v1"
    )


def check_source(text: str | None, base_source: str) -> None:
    """Find out cheaply whether there is a text to read.

    Raises:
        ConfigError: There is none; the message names `editor.text`.
    """
    try:
        check_text(text_source(text, base_source))
    except (DataError, ModelError) as error:
        raise ConfigError([f"editor.text: {problem}" for problem in error.problems]) from error


def read_windows(
    text: str | None,
    tokens: int | None,
    base_source: str,
    tokenizer: PreTrainedTokenizerBase,
    positions: int | None,
) -> Windows:
    """Read and cut the text of the statistics.

    Args:
        text: `editor.text`.
        tokens: `editor.text_tokens`.
        base_source: `model.source`.
        tokenizer: The base model's.
        positions: Its longest context.

    Raises:
        ConfigError: There is no text, or too little; the message names the key.
    """
    source = text_source(text, base_source)
    try:
        found = cut_windows(tokenizer, read_text(source), min(positions or LONGEST, LONGEST), tokens, short=True)
    except (DataError, ModelError) as error:
        named = [p if source in p else f"{source}: {p}" for p in error.problems]
        raise ConfigError([f"editor.text: {problem}" for problem in named]) from error
    if text is not None and tokens is not None and found.tokens < tokens:
        raise ConfigError(
            f"editor.text_tokens: {source} has {found.tokens:,} tokens, {tokens:,} are asked for; give more text, or "
            "set it lower (null takes all there is)"
        )
    return found


def load_or_collect_moments(
    base: Base,
    layers: Sequence[int],
    windows: Windows,
    bos: bool,
    cache: MomentCache | None,
    progress: StatisticsProgress | None,
) -> tuple[dict[int, SecondMoment], tuple[str, ...]]:
    """The moments of several blocks: those that a cache has, the others in one pass. Collective.

    Args:
        base: The unedited model.
        layers: Block numbers.
        windows: The text, the same on every rank.
        bos: Whether begin-of-text tokens count.
        cache: Asked and written by rank 0 only; the others get moments by one sum each.
        progress: Called while text is read.

    Returns:
        Block -> its second moment, on the CPU; and sentences about where they came from, for people.
    """
    runtime = base.runtime
    ids = {layer: moment_id(base.digest, windows, layer, bos) for layer in layers}
    found: dict[int, SecondMoment] = {}
    notes = told_by_first(lambda: _ask(cache, ids, found), runtime)
    there = told_by_first(lambda: list(found), runtime)
    moments = {layer: _shared(base, layer, found.get(layer)) for layer in there}
    missing = [layer for layer in layers if layer not in moments]
    if missing:
        taken = collect_moments(base, windows, missing, bos, progress=progress)
        if cache is not None:
            told_by_first(lambda: _keep(cache, ids, taken), runtime)
        moments |= taken
        notes.append(f"statistics of blocks {_listed(missing)} were taken over {windows.tokens:,} tokens")
    if there:
        notes.append(f"statistics of blocks {_listed(there)} were there already")
    return {layer: _resting(moments[layer]) for layer in layers}, tuple(notes)


def _ask(cache: MomentCache | None, ids: dict[int, str], found: dict[int, SecondMoment]) -> list[str]:
    """Fill `found` with what the cache has; damaged ones count as missing."""
    notes = []
    for layer, id in ids.items() if cache is not None else ():
        try:
            moment = cache.load(id)  # type: ignore[union-attr]
        except AdapterError as error:
            notes.append(f"block {layer}: {error}; they are taken again")
            continue
        if moment is not None:
            found[layer] = moment
    return notes


def _shared(base: Base, layer: int, own: SecondMoment | None) -> SecondMoment:
    """A moment that rank 0 has, on every rank: a sum to which the others add nothing."""
    parts = anatomy(base.model)
    size = dimensions(parts.mlp_out[layer])
    moment = SecondMoment(size[0] if size else parts.inner, base.runtime.device)
    if own is not None:
        moment.merge(own)
    moment.reduce(base.runtime)
    return moment


def _keep(cache: MomentCache, ids: dict[int, str], taken: dict[int, SecondMoment]) -> None:
    for layer, moment in taken.items():
        cache.save(ids[layer], moment)


def _resting(moment: SecondMoment) -> SecondMoment:
    """Move a moment to the CPU: between factorisations the device needs no m x m numbers."""
    moment.total = moment.total.to(torch.device("cpu"))
    return moment


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
