"""What a method needs beside edits and a model: subjects in the prompts, a text for statistics, blocks that exist.

Checked before anything is started. Knows nothing of how a method uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elder.datasets.stream import EditStream, as_stream
from elder.edit import Edit
from elder.errors import ConfigError, DataError
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import RunConfig

STATISTICS = "statistics"  # folder of the store that all runs share


def usable(stream: Sequence[Edit], configs: Sequence[RunConfig]) -> EditStream:
    """The edits that every method of some configs can make; what is left out is listed in `EditStream.skipped`.

    All of them, where `data.unusable` is `refuse`: then `check_subjects` says what is wrong.

    Raises:
        DataError: None would be left.
    """
    return as_stream(stream).without(not_editable(stream, configs))


def not_editable(stream: Sequence[Edit], configs: Sequence[RunConfig]) -> dict[int, str]:
    """The edits that are to be left out because a method of some configs cannot make them: index -> why."""
    asked = [config for config in configs if config.data.unusable == "skip" and needs_subject(config)]
    if not asked:
        return {}
    from elder.targets.requests import subject_problem

    return {index: why for index, edit in enumerate(stream) if (why := subject_problem(edit))}


def needs_subject(config: RunConfig) -> bool:
    """Whether the method writes at subjects."""
    return bool(getattr(config.editor_options(), "needs_subject", False))


def check_subjects(config: RunConfig, edits: Sequence[Edit]) -> None:
    """Every edit names a subject that stands in its prompt, if the method writes at subjects.

    Raises:
        DataError: All edits for which that is not so, by their ids.
    """
    if needs_subject(config):
        from elder.targets.requests import check_subjects as check

        check(edits)


def check_old_answers(config: RunConfig, edits: Sequence[Edit]) -> None:
    """Every edit has an old answer, if only known facts are to be edited.

    Raises:
        DataError: Some have none.
    """
    without = [edit.id for edit in edits if not edit.ground_truth] if config.data.known else []
    if without:
        raise DataError(
            f"data.known: {len(without)} edits have no old answer (ground_truth), so nobody can tell whether the model "
            f"knows it, {without[0]} for example; set data.known to false"
        )


def check_blocks(config: StagedConfig, blocks: int) -> None:
    """The blocks of `editor.layers` are in the model.

    Raises:
        ConfigError: One is not.
    """
    layers = config.editor.options.get("layers") or ()
    absent = [layer for layer in layers if layer >= blocks]
    if absent:
        raise ConfigError(
            f"editor.layers: the model has blocks 0 to {blocks - 1}, there is no block {', '.join(map(str, absent))}"
        )


def needs_text(config: RunConfig) -> bool:
    """Whether the method weighs what it writes by statistics of a text."""
    return bool(getattr(config.editor_options(), "needs_statistics", False))


def check_text(config: RunConfig) -> None:
    """Find out cheaply whether there is a text to take statistics of, if the method takes any.

    Raises:
        ConfigError: There is none; the message names `editor.text`.
    """
    if needs_text(config):
        from elder.targets.load_or_collect import check_source

        check_source(config.editor.options["text"], config.model.source)


def read_windows(config: RunConfig, tokenizer: Any, positions: int | None) -> Any:
    """The text of the statistics, read where the user's files are; None if the method takes no statistics.

    Args:
        config: The resolved config.
        tokenizer: The base model's.
        positions: Its longest context.

    Raises:
        ConfigError: There is no text, or too little; the message names the key.
    """
    if not needs_text(config):
        return None
    from elder.targets.load_or_collect import read_windows as read

    options = config.editor.options
    return read(options["text"], options["text_tokens"], config.model.source, tokenizer, positions)
