"""The base model, and the protocol that every editing method fulfils.

Knows nothing of stages, stores or clusters. A method sees the machine through `base.runtime` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from elder.chat import Chat
from elder.edit import Edit
from elder.errors import ConfigError, DataError
from elder.runtime import Runtime
from elder.state import weights_digest
from elder.texts import text_problem
from elder.tokens import TextFormat, end_ids

if TYPE_CHECKING:  # importing the class of models costs seconds, and most of what imports this makes none
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Base:
    """A loaded base model. Editors share its weights and never change them.

    Attributes:
        model: A transformers causal language model, in eval mode, all parameters frozen.
        tokenizer: Its tokenizer, with a padding token.
        source: As the user gave it: `world:small`, a directory, a hub id, an s3 address.
        runtime: Where it lives: one process or a sharded group.
        revision: Commit of a hub model, if known.
        chat: Renders prompts by the model's chat template; None: prompts are sent as they are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    runtime: Runtime
    revision: str | None = None
    chat: Chat | None = None
    _digest: str | None = field(default=None, repr=False)

    @cached_property
    def texts(self) -> TextFormat:
        """How prompts and answers are written as ids: for training, measuring and serving alike."""
        return TextFormat(self.tokenizer, self.chat, end_ids(self.model))

    def speaking(self, chat: Chat | None) -> Base:
        """The same base with prompts that go through another chat template, or through none."""
        return self if chat == self.chat else replace(self, chat=chat)

    @property
    def digest(self) -> str:
        """sha256 of the weights at the time of the first call. Collective: with many ranks, all must ask."""
        if self._digest is None:
            self._digest = weights_digest(self.model, self.runtime)
        return self._digest


@dataclass(frozen=True)
class EditOutcome:
    """The result of one edit: `final_loss` is the mean target cross-entropy of its prompts, in nats.

    `details` are the method's figures about it, such as steps and norms of its value.
    """

    edit_id: str
    accepted: bool
    final_loss: float
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """The result of one call of `Editor.edit`.

    Attributes:
        outcomes: One for each edit, in the order given.
        losses: The training loss of every step of every batch, for plots, `(batches, steps)`.
        seconds: Wall time of the call.
        notes: Figures of the method about itself (scope size, threshold, growth, ...), by name.
        warnings: What the user should know of them, a sentence each.
    """

    outcomes: tuple[EditOutcome, ...]
    losses: tuple[tuple[float, ...], ...]
    seconds: float
    notes: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


EditProgress = Callable[[int, int, float], None]
"""Called after every batch with (edits done in this call, edits of this call, last loss)."""


class Editor(Protocol):
    """An edited model in the making: give it edits, use `model`, save it, continue.

    Made by `Class(base, options)`. Every editor also mixes in `elder.editors.asking.Asking`, and makes its `model` with
    `elder.edited.model.make_edited`.

    `model` is an ordinary transformers model to its caller, with the edits active. It shares the
    weights of `base.model`, which stays as it was; two editors on one base do not affect each other.
    """

    method: str
    base: Base
    model: PreTrainedModel
    options: Any  # the frozen model of this method's options

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The blocks to edit in a model of `depth` blocks when `options.layers` is None; `elder plan` asks too."""

    @property
    def edits_applied(self) -> int:
        """Number of edits since the beginning of the stream, those before a continuation included."""

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Apply edits, in batches of `options.batch_size`; may be called again and again (lifelong).

        Raises:
            ConfigError: There are no edits.
            DataError: An edit has an empty prompt or target, or lacks what the method needs; nothing was changed.
        """

    def disabled(self) -> AbstractContextManager[None]:
        """Context in which `model` answers exactly like the base model."""

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """Context for teacher-forced calls of `model`.

        Args:
            positions: (B,) index of the last prompt token of each row, so that the answer
                after it in the same row does not influence the routing.
        """

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """(B,) bool: which prompts the edits are active for; None for methods without deferral."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a continuation needs, gathered, on the CPU; text is kept as uint8 tensors."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state made by `state_dict` of the same method, options and base."""

    def save(self, directory: str | Path) -> None:
        """Write the adapter directory (see `elder.adapter_files`)."""

    def base_digest(self) -> str:
        """sha256 of the base weights as they are now. Collective."""


@runtime_checkable
class Preparing(Protocol):
    """An editor with work to do once before its first edit, such as statistics of text.

    `edit` does it if it is still to be done; calling `prepare` first allows its progress to be shown.
    """

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> tuple[str, ...]:
        """Do it, unless it is done. Collective.

        Args:
            progress: Called with (done, of) while it takes time; never called if it is done already.

        Returns:
            Sentences about what was done, for people.
        """


def check_edits(edits: Sequence[Edit]) -> None:
    """Refuse edits that no method can learn, before anything is changed.

    Raises:
        ConfigError: There are no edits.
        DataError: Prompts or targets without text; all of them are named.
    """
    if not edits:
        raise ConfigError("edit: there are no edits to apply")
    problems = [
        f"edit {edit.id}: its {name} {wrong}"
        for edit in edits
        for name in ("prompt", "target")
        if (wrong := text_problem(getattr(edit, name)))
    ]
    if problems:
        raise DataError(problems)
