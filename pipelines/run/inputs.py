"""Reading what a config names: edits, tokenizer, text of the perplexity alarm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elder.datasets.records import capped
from elder.datasets.stream import EditStream
from elder.edit import Edit
from elder.errors import ConfigError, DataError
from elder.paths import not_plain, user_path
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import RunConfig
from elder.pipelines.run.requirements import check_blocks, check_old_answers, check_subjects, not_editable, usable

if TYPE_CHECKING:
    from elder.ability.item import Item
    from elder.datasets.reader import EditReader
    from elder.datasets.stream_check import CheckedStream

KNOWN_NOTE = "data.known: how many facts the base model knows is found out by the run; fewer edits make fewer stages"


def read_stream(config: RunConfig, cache_dir: Path | None = None, needs: bool = True) -> EditStream:
    """The edits of the config, checked as a whole against the base model's tokenizer and context.

    Args:
        config: The resolved config.
        cache_dir: Where the embedded model is kept.
        needs: Whether what the method needs is checked too; not where several methods share a stream.

    Raises:
        InputError: All that is wrong with data and model files.
    """
    tokenizer, context = read_tokenizer(config, cache_dir, needs)
    stream = load_stream(config, tokenizer, context)
    if needs:
        stream = usable(stream, [config])
        check_subjects(config, stream)
    return stream


def load_stream(config: RunConfig, tokenizer: Any = None, positions: int | None = None) -> EditStream:
    """The stream of edits of a config, read and checked as a whole.

    Args:
        config: The resolved config.
        tokenizer: Counts tokens, when it is at hand.
        positions: Longest context of the base model, in tokens.

    Raises:
        DataError: The data are missing, malformed, duplicate, contradictory or too long; all of it at once.
        ModelError: A chat template is asked for and there is none, or it does not render.
    """
    from elder.datasets import load_edits, validate_stream

    data = config.data
    texts = None if tokenizer is None else text_format(config, tokenizer)
    edits = load_edits(
        data.source, path=data.path, limit=_limit(config), order=data.order, seed=config.seed, unusable=data.unusable
    )
    if not edits:
        raise DataError(_no_edits(config))
    check_old_answers(config, edits)
    conflicts = config.stream.conflicts
    return validate_stream(edits, conflicts, tokenizer=texts, max_tokens=positions, unusable=data.unusable)


def skipped_of(stream: Sequence[Edit]) -> tuple[str, ...]:
    """What was left out of a stream because it cannot be edited: the place of each record, and why."""
    return stream.skipped if isinstance(stream, EditStream) else ()


def left_out(skipped: Sequence[str]) -> str:
    """What was left out of a stream, in words; the first of it in full."""
    several = f"{len(skipped)} records were" if len(skipped) > 1 else "1 record was"
    return "\n".join([f"{several} left out, which cannot be edited:", *(f"  {line}" for line in capped([*skipped]))])


def text_format(config: StagedConfig, tokenizer: Any) -> Any:
    """How prompts are written as ids for the base model (an `elder.tokens.TextFormat`).

    Raises:
        ModelError: A chat template is asked for and there is none, or it does not render.
    """
    from elder.chat import chat_of
    from elder.tokens import TextFormat

    return TextFormat(tokenizer, chat_of(tokenizer, config.data.chat, config.data.system))


def check_stream(
    config: RunConfig,
    tokenizer: Any = None,
    positions: int | None = None,
    needs: bool = True,
    progress: Callable[[int], None] | None = None,
) -> CheckedStream:
    """The checks of `load_stream`, edit by edit, for a stream that need not fit into memory.

    A shuffled stream is held all the same: its order is known when all edits are.

    Args:
        config: The resolved config.
        tokenizer: As for `load_stream`.
        positions: As for `load_stream`.
        needs: Whether what the method needs of an edit is checked too.
        progress: Called with the number of edits that were read.

    Raises:
        DataError: As `load_stream`; where it finds nothing, that an edit lacks what the method needs.
        ModelError: A chat template is asked for and there is none, or it does not render.
    """
    from elder import datasets

    def needed(edits: EditStream) -> Mapping[int, str]:
        check_old_answers(config, edits)
        wrong = not_editable(edits, [config])
        if not wrong:
            check_subjects(config, edits)
        return wrong

    found = datasets.check_stream(
        _reader(config),
        config.stream.conflicts,
        None if tokenizer is None else text_format(config, tokenizer),
        positions,
        needed if needs else None,
        progress,
        config.data.unusable,
    )
    if not found.edits:
        raise DataError(_no_edits(config))
    return found


def _reader(config: RunConfig) -> Callable[[], EditReader]:
    """Begins to read the stream, from its first edit."""
    from elder.datasets import EditReader, load_edits, open_edits

    data = config.data
    if data.order == "given":
        return lambda: open_edits(data.source, data.path, _limit(config), config.seed, unusable=data.unusable)
    held = load_edits(
        data.source, path=data.path, limit=_limit(config), order=data.order, seed=config.seed, unusable=data.unusable
    )
    return lambda: EditReader.held(held)


def _limit(config: RunConfig) -> int | None:
    """How many edits are read; all where the base model is still to say which of them it knows."""
    return None if config.data.known else config.data.edits


def _no_edits(config: RunConfig) -> str:
    return f"{config.data.path or config.data.source}: holds no edits; give a file with at least one (data.path)"


def read_tokenizer(config: StagedConfig, cache_dir: Path | None, needs: bool = True) -> tuple[Any, int | None]:
    """The base model's tokenizer, and its longest context in tokens.

    Args:
        config: The resolved config.
        cache_dir: Where the embedded model is kept.
        needs: Whether the model must have the blocks that are to be edited.

    Raises:
        ModelError: There is none, or it cannot be read.
        ConfigError: A block that is to be edited does not exist.
    """
    from elder.models.load import load_config, load_tokenizer

    model = config.model
    shape = load_config(model.source, model.revision, cache_dir).get_text_config()
    if needs:
        check_blocks(config, shape.num_hidden_layers)
    tokenizer = load_tokenizer(model.source, model.revision, cache_dir)
    return tokenizer, getattr(shape, "max_position_embeddings", None)


def read_text(config: RunConfig) -> str | None:
    """The text of the perplexity alarm, read here because workers may not see the file.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = config.evaluation.perplexity_text
    if path is None:
        return None
    place = user_path(path, ConfigError)
    if found := not_plain(place):
        raise ConfigError(f"evaluation.perplexity_text: '{path}' cannot be read: it is {found}")
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"evaluation.perplexity_text: '{path}' cannot be read: {error}") from error


def read_ability(config: RunConfig, cache_dir: Path | None = None) -> Mapping[str, tuple[Item, ...]]:
    """The items of `evaluation.ability.tasks`, read here because workers may not see the files.

    Args:
        config: The resolved config.
        cache_dir: Its folder `ability` is where the files are, if the config names none.

    Raises:
        DataError: A file is missing, or is none of that task; all of it at once.
    """
    from elder.ability.files import read_tasks

    wanted = config.evaluation.ability
    if not wanted.tasks:
        return {}
    folder = (cache_dir or Path()) / "ability" if wanted.path is None else user_path(wanted.path, DataError)
    return read_tasks(folder, wanted.tasks, wanted.items)
