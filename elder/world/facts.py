"""The facts of a generated world: who, which relation, which answer, in which wordings training shows it.

Made from a seed in milliseconds, so they are never stored. Knows nothing of models or edits' records.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from elder.world.names import make_names
from elder.world.recipe import WorldSize, find_recipe
from elder.world.relations import RELATIONS, Relation


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true of one person.

    Attributes:
        person: The name.
        relation: The kind of fact.
        answer: One of `relation.objects`.
        trained: Indices of the wordings that training shows.
        heldout: Indices of the other wordings: answering them shows knowledge, not memory of a sentence.
        editable: Whether an edit may change this fact.
    """

    person: str
    relation: Relation
    answer: str
    trained: tuple[int, ...]
    heldout: tuple[int, ...]
    editable: bool

    def prompt(self, template: int) -> str:
        """The question in one wording; it ends where the answer begins."""
        return self.relation.templates[template].format(self.person)


@dataclass(frozen=True)
class World:
    """All facts, person by person, and who is protected from every edit."""

    people: tuple[str, ...]
    protected: frozenset[str]
    facts: tuple[Fact, ...]

    def prompts(self, trained: bool) -> list[tuple[str, str]]:
        """(prompt, answer) of all facts in the wordings that training shows, or in the held-out ones."""
        return [
            (fact.prompt(template), fact.answer)
            for fact in self.facts
            for template in (fact.trained if trained else fact.heldout)
        ]


def make_world(size: WorldSize) -> World:
    """The world of a size and its seed; equal sizes give equal worlds on every machine."""
    rng = random.Random(f"world {size.seed}")
    people = make_names(size.people, rng)
    protected = frozenset(rng.sample(people, size.protected))
    relations = RELATIONS[: size.relations]
    facts: list[Fact] = []
    for person in people:
        editable = set() if person in protected else set(rng.sample(range(len(relations)), size.editable_per_person))
        for index, relation in enumerate(relations):
            order = list(range(len(relation.templates)))
            rng.shuffle(order)
            facts.append(
                Fact(
                    person=person,
                    relation=relation,
                    answer=rng.choice(relation.objects),
                    trained=tuple(sorted(order[: size.trained_templates])),
                    heldout=tuple(sorted(order[size.trained_templates :])),
                    editable=index in editable,
                )
            )
    return World(tuple(people), protected, tuple(facts))


def named_world(name: str) -> World:
    """The world of a name such as `small` or `world:tiny`.

    Raises:
        ModelError: There is no world of this name.
    """
    return make_world(find_recipe(name).size)
