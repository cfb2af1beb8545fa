"""Memory of the methods that keep edits as texts and change no weight, by arithmetic: the look-up of answers.

The formula is in the docstring and below the table that `elder plan` prints.
"""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig

WORDING_BYTES = 2048  # assumed: a wording of a dozen words with their set and their place in the index
WORDINGS = 3  # assumed: the prompt and two rephrases
FORMULAS = ("adapters: 2 KiB a stored wording, 3 wordings an edit (1 without rephrases), in host memory",)


def keeps_texts(config: StagedConfig) -> bool:
    """Whether the method is one of these; its options show it, so that nothing heavy is imported."""
    return "overlap" in config.editor.options


def text_bytes(config: StagedConfig) -> int:
    """The store: `WORDING_BYTES` for each wording of `data.edits`."""
    wordings = WORDINGS if config.editor.options["rephrases"] else 1
    return (config.data.edits or 0) * wordings * WORDING_BYTES
