"""The recipes of the named worlds: how large, how the model looks, how it is trained.

Data and lookup only. Knows nothing of tokenizers, torch or files.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from elder.errors import ModelError

RECIPE_VERSION = 1
"""Raised when the training code changes in a way that changes weights: cached models are then made anew."""


@dataclass(frozen=True)
class WorldSize:
    """How large a world is.

    Attributes:
        people: Number of people.
        relations: How many of the relations they have, in the order of `relations.RELATIONS`.
        protected: People of whom no fact is ever edited.
        editable_per_person: Relations of each other person that may be edited; the rest never are.
        trained_templates: Wordings in which training shows a fact; the other wordings are held out.
        seed: Everything about the world follows from it.
    """

    people: int
    relations: int
    protected: int
    editable_per_person: int
    trained_templates: int
    seed: int


@dataclass(frozen=True)
class Shape:
    """The Llama: widths in features, `vocab` in tokens, `positions` in tokens."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    vocab: int
    positions: int = 256


@dataclass(frozen=True)
class Training:
    """How the model is trained.

    Attributes:
        epochs: Passes over all statements.
        batch_size: Statements in a step.
        lr: Peak rate of AdamW, for the embedding and the norms.
        matrix_lr: Peak rate of Muon, for the matrices inside blocks.
        warmup: Share of the steps in which the rate rises.
        weight_decay: Decoupled decay of what AdamW trains.
        text_share: Share of the tokens outside the answers that are trained too, drawn anew for every step.
        sentences: Generic sentences mixed in (every token of them weighs 1).
        accuracy: Least held-out accuracy with which a model is accepted.
    """

    epochs: int
    batch_size: int
    lr: float
    matrix_lr: float = 0.02
    warmup: float = 0.1
    weight_decay: float = 0.01
    text_share: float = 0.1
    sentences: int = 300
    accuracy: float = 0.99


@dataclass(frozen=True)
class Recipe:
    """A named world with its model."""

    name: str
    size: WorldSize
    shape: Shape
    training: Training


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "small",
            WorldSize(people=560, relations=3, protected=60, editable_per_person=2, trained_templates=4, seed=20),
            Shape(layers=5, width=128, mlp_width=320, heads=4, vocab=2304),
            Training(epochs=12, batch_size=128, lr=4e-3),
        ),
        Recipe(
            "tiny",
            WorldSize(people=110, relations=3, protected=12, editable_per_person=2, trained_templates=5, seed=21),
            Shape(layers=4, width=80, mlp_width=216, heads=4, vocab=1200),
            # Few people teach the wordings less well: 0.995 was measured, and another processor rounds otherwise.
            Training(epochs=12, batch_size=64, lr=6e-3, sentences=100, accuracy=0.97),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a world, by its name with or without the prefix `world:`.

    Raises:
        ModelError: There is no world of this name; the message suggests the nearest.
    """
    short = name.removeprefix("world:")
    if short not in RECIPES:
        near = difflib.get_close_matches(short, RECIPES, n=1)
        hint = f"did you mean 'world:{near[0]}'?" if near else f"known: {', '.join(f'world:{n}' for n in RECIPES)}"
        raise ModelError(f"there is no generated world 'world:{short}'; {hint}")
    return RECIPES[short]
