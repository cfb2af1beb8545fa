"""Edits of a generated world: an editable fact gets another answer of the same kind.

Knows nothing of the model that knows the world, only of its facts.
"""

from __future__ import annotations

import random

from elder.edit import Edit, Probe
from elder.errors import DataError
from elder.world.facts import Fact, World, named_world


def world_edits(name: str = "small", limit: int | None = None, seed: int = 0) -> list[Edit]:
    """Edits of distinct facts. The first edits of a longer list are the edits of a shorter one.

    The prompt and the first two rephrases are wordings in which the model learned the fact; the last two
    rephrases are wordings it never saw for this fact, so they measure generalization twice over.
    Locality probes ask for facts that no edit of the world, of whatever seed, changes: another relation
    of the same person, the same relation of another person, and a third fact of the rest.

    Args:
        name: `small` or `tiny`, with or without the prefix `world:`.
        limit: How many edits; all editable facts when None.
        seed: Decides which facts come first and what they become.

    Raises:
        ModelError: There is no world of this name.
        DataError: More edits are asked for than facts may be edited.
    """
    world = named_world(name)
    editable = [fact for fact in world.facts if fact.editable]
    if limit is not None and not 0 <= limit <= len(editable):
        raise DataError(f"{name} has {len(editable)} facts that may be edited, {limit} edits were asked for")
    random.Random(f"edits {seed}").shuffle(editable)
    keepers = _Keepers(world)
    # Each edit has its own generator, so that a shorter list is the beginning of a longer one.
    return [
        _edit(fact, keepers, random.Random(f"edit {seed} {fact.person} {fact.relation.name}"))
        for fact in (editable if limit is None else editable[:limit])
    ]


class _Keepers:
    """The facts that are never edited, looked up by person and by relation."""

    def __init__(self, world: World) -> None:
        self.all = [fact for fact in world.facts if not fact.editable]
        self.by_person: dict[str, list[Fact]] = {}
        self.by_relation: dict[str, list[Fact]] = {}
        for fact in self.all:
            self.by_person.setdefault(fact.person, []).append(fact)
            self.by_relation.setdefault(fact.relation.name, []).append(fact)


def _edit(fact: Fact, keepers: _Keepers, rng: random.Random) -> Edit:
    target = rng.choice([answer for answer in fact.relation.objects if answer != fact.answer])
    trained = rng.sample(fact.trained, 3)
    unseen = rng.sample(fact.heldout, 2)
    return Edit(
        prompt=fact.prompt(trained[0]),
        target=target,
        subject=fact.person,
        ground_truth=fact.answer,
        rephrases=tuple(fact.prompt(template) for template in (*trained[1:], *unseen)),
        locality=_locality(fact, keepers, rng),
    )


def _locality(fact: Fact, keepers: _Keepers, rng: random.Random) -> tuple[Probe, ...]:
    """Three probes: same person, same relation, anything else; all distinct, with their true answers."""
    same_person = rng.choice(keepers.by_person[fact.person])
    same_relation = rng.choice(keepers.by_relation[fact.relation.name])
    other = rng.choice(keepers.all)
    while other in (same_person, same_relation):
        other = rng.choice(keepers.all)
    return tuple(
        Probe(known.prompt(rng.choice(known.trained + known.heldout)), known.answer)
        for known in (same_person, same_relation, other)
    )
