"""Checks of what the user gave, before anything expensive starts: data and model files.

Every error says where it is and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from elder.edit import Edit, dataset_digest
from elder.errors import ConfigError, InputError
from elder.jobs.shared.extras import MODEL_LIBRARIES, is_installed
from elder.jobs.shared.wiring import check_addresses, home
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import RunConfig
from elder.pipelines.run.inputs import load_stream, read_ability, read_text
from elder.pipelines.run.requirements import check_blocks, check_subjects, check_text, read_windows, usable

if TYPE_CHECKING:
    from elder.pipelines.config.suite import SuiteConfig

NO_MODELS = (
    "torch and transformers are not installed here (pip install 'elder[edit]'): the base model's files, blocks, prompt "
    "lengths, subjects and the text of statistics are checked where the run starts"
)
TEXT = ("text", "text_tokens")  # the options of an editor that say what is read for its statistics


@dataclass(frozen=True)
class Inputs:
    """The data that the user gave, read and checked once: a run takes them over.

    Attributes:
        edits: The stream.
        digest: Its digest.
        windows: The text of the statistics, or None where the method takes none or the tokenizer is not at hand.
        notes: Sentences on what could not be checked.
    """

    edits: list[Edit]
    digest: str
    windows: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def checked_edits(self) -> list[Edit] | None:
        """The edits if nothing was left unchecked; else None: the driver checks them when it has the model."""
        return None if self.notes else self.edits


def models_here() -> bool:
    """Whether the libraries that read a base model are installed; a client checks the rest without them."""
    return all(is_installed(name) for name in MODEL_LIBRARIES)


@contextmanager
def noting(problems: list[str]) -> Iterator[None]:
    """Wrong input that is found in the block is noted, and the checks after it are still made."""
    try:
        yield
    except InputError as error:
        problems.extend(error.problems)


def check_model(config: StagedConfig, problems: list[str], notes: list[str]) -> tuple[Any, int | None]:
    """Check addresses and the base model's files, noting what is wrong; returns tokenizer and longest context."""
    tokenizer, positions = None, None
    with noting(problems):
        check_addresses(config)
    with noting(problems):
        tokenizer, positions = tokenizer_of(config, notes)
        _check_weights(config, tokenizer)
    return tokenizer, positions


def _check_weights(config: StagedConfig, tokenizer: Any) -> None:
    """Refuse damaged weights and those of another model before the run's first file is written."""
    if models_here():
        from elder.models.beforehand import check_files

        model = config.model
        check_files(model.source, model.dtype, model.revision, home(), tokenizer)


def check_inputs(config: RunConfig) -> Inputs:
    """Check the base model's files, then the data against its context length.

    Raises:
        InputError: Everything that is wrong with model and data, at once.
    """
    problems: list[str] = []
    notes: list[str] = []
    tokenizer, positions = check_model(config, problems, notes)
    edits: list[Edit] = []
    windows = None
    with noting(problems):
        edits = load_stream(config, tokenizer, positions)
        if models_here():
            edits = usable(edits, [config])
            check_subjects(config, edits)
    with noting(problems):
        read_ability(config, home())
    with noting(problems):
        read_text(config)
    with noting(problems):
        if models_here():
            check_text(config)
        if tokenizer is not None:
            windows = read_windows(config, tokenizer, positions)
    if problems:
        raise ConfigError(problems)
    return Inputs(edits, dataset_digest(edits), windows, notes)


def check_members(whole: SuiteConfig) -> list[str]:
    """Check what each run of a comparison or study needs beside what all share: blocks, subjects, text.

    Returns:
        Sentences on what could not be checked.

    Raises:
        ConfigError: Everything that is wrong, by the keys of the config.
    """
    notes: list[str] = []
    if not models_here():
        return [NO_MODELS]
    tokenizer, positions = tokenizer_of(whole.run, notes)
    blocks = _blocks(whole.run)
    streams: dict[tuple[int, int | None], Sequence[Edit]] = {}
    texts: set[tuple[Any, ...]] = set()
    problems: list[str] = []
    for member in whole.members:
        config = member.config
        key, text = (config.seed, config.data.edits), tuple(config.editor.options.get(name) for name in TEXT)
        try:
            if key not in streams:
                alike = [m.config for m in whole.members if (m.config.seed, m.config.data.edits) == key]
                streams[key] = usable(load_stream(config, tokenizer, positions), alike)
        except InputError as error:
            raise ConfigError(whole.named(member.name, error)) from error
        known = None if text in texts else tokenizer
        for wrong in _wrong_with(config, streams[key], blocks, known, positions):
            problems += [problem for problem in whole.named(member.name, wrong) if problem not in problems]
        texts.add(text)
    if problems:
        raise ConfigError(problems)
    return notes


def _wrong_with(
    config: RunConfig, edits: Sequence[Edit], blocks: int | None, tokenizer: Any, positions: int | None
) -> Iterator[InputError]:
    """Everything that stops one run; a text is read where a tokenizer is given."""
    checks: tuple[Callable[[], Any], ...] = (
        lambda: check_subjects(config, edits),
        lambda: None if blocks is None else check_blocks(config, blocks),
        lambda: check_text(config) if tokenizer is None else read_windows(config, tokenizer, positions),
    )
    for check in checks:
        try:
            check()
        except InputError as error:
            yield error


def _blocks(config: RunConfig) -> int | None:
    """How many blocks the base model has, if its files are here."""
    from elder.models.beforehand import here
    from elder.models.load import load_config

    place = here(config.model.source, config.model.revision, home(), weights=False)
    return None if place is None else load_config(place).get_text_config().num_hidden_layers


def tokenizer_of(config: StagedConfig, notes: list[str]) -> tuple[Any, int | None]:
    """Tokenizer and context length of the base model, from files that are here; nothing is fetched or trained.

    Args:
        config: The resolved config.
        notes: Receives a sentence when they are not at hand.

    Raises:
        ModelError: A model directory lacks its config, weights or tokenizer.
    """
    source = config.model.source
    if not models_here():
        notes.append(NO_MODELS)
        return None, None
    from elder.models.beforehand import here
    from elder.models.made import how_made, is_made

    place = here(source, config.model.revision, home(), weights=False)
    if place is not None:
        return _read_tokenizer(config, place)
    if is_made(source):
        notes.append(f"{source} is {how_made(source)}; prompt lengths are checked then")
    else:
        notes.append(f"{source} is not in the local hub cache; prompt lengths are checked when it is loaded")
    return None, None


def _read_tokenizer(config: StagedConfig, place: str) -> tuple[Any, int | None]:
    from elder.models.load import load_config, load_tokenizer

    tokenizer, text = load_tokenizer(place), load_config(place).get_text_config()
    check_blocks(config, text.num_hidden_layers)
    return tokenizer, getattr(text, "max_position_embeddings", None)
