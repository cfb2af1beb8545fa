"""The people and facts of a generated world: who, which relation, which answer, in which wordings training shows it.

Made from a seed in milliseconds, so they are never stored. Knows nothing of models or edits' records.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from elder.world.recipe import WorldSize, find_recipe
from elder.world.relations import RELATIONS, Relation


def words(text: str) -> list[str]:
    """The words of a list that is written as one text."""
    return text.split()


# Invented people: two-word names made of syllables, so that no real person is meant.
FIRST_NAMES = words(
    "Abren Adlin Alvo Amira Anselm Arla Basko Belin Benor Brisa Calder Celvin Corin Dalia Darvo Delma Edric Elvo Emlin "
    "Farin Fenna Galen Gerda Gorin Halda Harlo Ilsa Imre Jarek Jolan Kasia Kelmo Kira Lando Leora Lisbet Marek Melva "
    "Mirko Nadia Nelko Olma Orrin Petra Quila Ranko Rosla Sabin Selma Stelo Tamsin Tarvo Ulric Varda Velko Wanda Wilmo "
    "Xenia Yarno Zelda"
)

LAST_HEADS = words(
    "Bar Bel Bran Cal Cor Dal Dor Dun Fal Far Fen Gar Gil Hal Har Hol Jor Kal Kar Kel Lan Lor Mal Mar Mer Nor Or Pel "
    "Ral Ros Sal Sel Tar Tor Ul Val Ver Wal Wen Zan"
)

LAST_TAILS = words(
    "beck bury cott dane dell denko dred fax field ford gard gate gren hart holm kin land ley lund mark mer mond moor "
    "nova quist ridge rick sen shaw son stad stone thorp tin vik vale wald ward wick worth"
)


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


def make_names(count: int, rng: random.Random) -> list[str]:
    """Distinct names; while the syllables last, no two people share a last name.

    Args:
        count: How many names, at most `len(FIRST_NAMES) * len(LAST_HEADS) * len(LAST_TAILS)`.
        rng: Source of randomness; equal states give equal names.

    Raises:
        ValueError: More names are asked for than the syllables can make.
    """
    last_names = [head + tail for head in LAST_HEADS for tail in LAST_TAILS]
    if not 0 <= count <= len(FIRST_NAMES) * len(last_names):
        raise ValueError(f"can make 0 to {len(FIRST_NAMES) * len(last_names)} names, {count} were asked for")
    rng.shuffle(last_names)
    firsts = list(FIRST_NAMES)
    rng.shuffle(firsts)
    # Person i takes last name i and first name i, both cyclic; every full cycle of last names shifts
    # the first names by one, so that a pair never comes again.
    names = []
    for i in range(count):
        cycle, slot = divmod(i, len(last_names))
        names.append(f"{firsts[(slot + cycle) % len(firsts)]} {last_names[slot]}")
    return names
