"""One question of a task. Knows nothing of tasks or models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked, and what is right.

    Attributes:
        prompt: The text to be continued; of a `text` task the text itself.
        gold: The right choice; or the answers that are accepted; or all entities that are wanted.
        choices: The continuations to choose from, each with the space before it.
        group: Items of a group are averaged first, then the groups (the entity types of CoNLL-2003).
    """

    prompt: str
    gold: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = ""
