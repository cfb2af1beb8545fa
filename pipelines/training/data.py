"""The facts of a training: read and checked as a whole, dealt into blocks by seed and place, never copied.

Knows nothing of models but the tokenizer that counts, and nothing of how an editor is trained.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from elder.datasets import EditStream, load_edits, validate_stream
from elder.edit import Edit, Probe, dataset_digest
from elder.errors import ConfigError, DataError
from elder.pipelines.config.training import TrainConfig
from elder.pipelines.run.inputs import text_format


class Blocks(Sequence[Edit]):
    """The stream of a training: epoch after epoch of the same facts, each in an order of its own.

    A place says it all: the fact at a place is computed from the seed and the place, so a training that is
    continued needs nothing but the number of steps that it has done. An epoch has as many whole blocks as the
    facts give; a block never holds a fact twice. A fact without an unrelated prompt borrows that of another fact,
    one that is not in its block.

    Args:
        facts: What is trained on.
        block_size: Facts in a block.
        steps: Blocks of the whole training.
        seed: Of the orders.
    """

    def __init__(self, facts: Sequence[Edit], block_size: int, steps: int, seed: int) -> None:
        self.facts, self.block_size, self.steps, self.seed = tuple(facts), block_size, steps, seed
        self.per_epoch = len(self.facts) // block_size  # whole blocks
        if not self.per_epoch:
            raise ConfigError(
                f"editor.n_edits: a block of {block_size} facts is more than the {len(self.facts)} that are trained on"
            )
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Facts of all blocks together."""
        return self.steps * self.block_size

    @overload
    def __getitem__(self, at: int) -> Edit: ...

    @overload
    def __getitem__(self, at: slice) -> list[Edit]: ...

    def __getitem__(self, at: int | slice) -> Edit | list[Edit]:
        """The fact at a place, or those of a slice."""
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        block, within = divmod(at % len(self), self.block_size)
        epoch, number = divmod(block, self.per_epoch)
        order, first = self._epoch(epoch), number * self.block_size
        fact = self.facts[order[first + within]]
        others = len(order) - self.block_size
        if fact.locality or not others:
            return fact
        lender = self.facts[order[(first + self.block_size + within % others) % len(order)]]
        return lend(fact, lender)

    def _epoch(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            order = list(range(len(self.facts)))
            random.Random(f"epoch {self.seed} {epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the order at hand, which is computed again."""
        return {**self.__dict__, "_order": (-1, [])}


def lend(fact: Edit, lender: Edit) -> Edit:
    """A fact with another one's prompt as its unrelated prompt; the answer is what holds without any edit."""
    return replace(fact, locality=(Probe(lender.prompt, lender.ground_truth or lender.target),))


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        blocks: The stream.
        validation: Facts that are measured; none of them is trained on.
        digest: sha256 of all facts.
    """

    blocks: Blocks
    validation: tuple[Edit, ...]
    digest: str


def read_training(config: TrainConfig, tokenizer: Any = None, positions: int | None = None) -> TrainingData:
    """Read the facts of a config and check them as a whole.

    Args:
        config: The resolved config.
        tokenizer: Counts tokens, when it is at hand.
        positions: Longest context of the base model, in tokens.

    Raises:
        DataError: Everything that is wrong with the facts.
        ConfigError: There are too few of them.
    """
    data, own = config.data, config.validation
    wanted = None if data.edits is None else data.edits + data.skip
    read = load_edits(data.source, path=_path(data.path), limit=wanted, seed=config.seed, target=data.target)
    facts = read.take(range(min(data.skip, len(read)), len(read)))
    if own.source is None:
        held_out = own.edits or 0
        if held_out >= len(facts):
            raise ConfigError(
                f"validation.edits: {held_out} facts cannot be held out of {len(facts)} (behind the {data.skip} of "
                "data.skip); take fewer, or give validation.source"
            )
        cut = len(facts) - held_out
        facts, measured = facts.take(range(cut)), facts.take(range(cut, len(facts)))
    else:
        measured = load_edits(own.source, path=_path(own.path), limit=own.edits, seed=config.seed, target=data.target)
    problems: list[str] = []
    texts = None if tokenizer is None else text_format(config, tokenizer)
    for part in (facts, measured):
        try:
            validate_stream(part, tokenizer=texts, max_tokens=positions)
        except DataError as error:
            problems += error.problems
    problems += _met_again(facts, measured)
    if problems:
        raise DataError(problems)
    blocks = Blocks(facts, config.block_size, config.training.steps, config.seed)
    validation = tuple(edit if edit.locality else lend(edit, facts[i % len(facts)]) for i, edit in enumerate(measured))
    _check_complete(blocks, validation)
    hashed = hashlib.sha256(f"{dataset_digest(facts)} {dataset_digest(validation)}".encode())
    return TrainingData(blocks, validation, hashed.hexdigest())


def _met_again(facts: EditStream, measured: EditStream) -> list[str]:
    """Validation facts that are trained on."""
    trained = {edit.prompt for edit in facts}
    return [
        f"{place}: the prompt '{edit.prompt[:60]}' is among the training facts; validation must not see them"
        for edit, place in zip(measured, measured.places, strict=True)
        if edit.prompt in trained
    ][:20]


def _check_complete(blocks: Blocks, validation: Sequence[Edit]) -> None:
    """Every fact needs a rephrase, which the loss is taken on, and an unrelated prompt.

    Raises:
        DataError: From the trainer, with every fact that lacks one.
    """
    from elder.hyper.fact_checks import check_facts

    others = len(blocks.facts) > blocks.block_size
    stand_in = (Probe(blocks.facts[0].prompt),)
    complete = [edit if edit.locality or not others else replace(edit, locality=stand_in) for edit in blocks.facts]
    check_facts([*complete, *validation])


def _path(path: str | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
