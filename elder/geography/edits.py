"""Edits of what is known of countries and cities: a fact gets another answer of the same kind, which is not true.

The seed decides which facts may be edited. The others are keepers: no edit of this seed touches them, so that a probe
asks for nothing that another edit of the stream has changed. Knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from elder.edit import Edit, Probe
from elder.errors import DataError
from elder.geography.facts import ARTICLE, Atlas, Place, atlas
from elder.geography.relations import PLAIN, Form, Hop, Relation

KEPT = 2
"""Facts of each country that are never edited."""

KEPT_CITIES = 3
"""Every third city is a keeper."""

NEIGHBOURS = 2
"""Probes about other places, of the same relation."""


@dataclass(frozen=True)
class Fact:
    """What is asked of a place."""

    place: Place
    relation: Relation

    @property
    def answers(self) -> tuple[str, ...]:
        """All official values, the main one first."""
        return self.place.facts[self.relation.name]

    def prompt(self, wording: int) -> str:
        """One of the relation's wordings."""
        return filled(self.relation.wordings[wording], self.place.name)

    def probe(self, wording: int) -> Probe:
        """The question with its true answer."""
        return Probe(self.prompt(wording), self.answers[0])


class Division:
    """Which facts may be edited, and which are keepers.

    Attributes:
        form: How is asked; which facts are kept does not depend on it.
        editable: In the order of the stream.
        kept: (key of a place, name of a relation) -> a fact that is never edited.
    """

    def __init__(self, world: Atlas, seed: int, form: Form = PLAIN) -> None:
        self.form = form
        rng = random.Random(f"geography {seed}")
        self.editable: list[Fact] = []
        self.kept: dict[tuple[str, str], Fact] = {}
        for place in world.countries.values():
            asked = [Fact(place, relation) for relation in form.of_countries if is_question(place, relation)]
            rng.shuffle(asked)
            self._add(asked[KEPT:], asked[:KEPT])
        cities = [Fact(place, form.of_cities) for place in world.cities.values()]
        rng.shuffle(cities)
        few = len(cities) // KEPT_CITIES
        self._add(cities[few:], cities[:few])
        rng.shuffle(self.editable)

    def _add(self, editable: Iterable[Fact], kept: Iterable[Fact]) -> None:
        self.editable += editable
        self.kept |= {(fact.place.key, fact.relation.name): fact for fact in kept}

    def keeps(self, place: Place, relation: str) -> bool:
        """Whether no edit touches this fact, and it is in the table."""
        return (place.key, relation) in self.kept

    def keepers(self, relation: Relation) -> list[Fact]:
        """The keepers of a relation."""
        return [fact for fact in self.kept.values() if fact.relation == relation]


def geography_edits(limit: int | None = None, seed: int = 0, form: Form = PLAIN) -> list[Edit]:
    """Edits of distinct facts. The first edits of a longer list are the edits of a shorter one.

    Args:
        limit: How many edits; all editable facts when None.
        seed: Decides which facts may be edited, which come first and what they become.
        form: How is asked: `PLAIN`, or `elder.geography.chat.CHAT`. The facts and their new answers are the same.

    Raises:
        DataError: More edits are asked for than facts may be edited.
    """
    world = atlas()
    division = Division(world, seed, form)
    facts = division.editable
    if limit is not None and not 0 <= limit <= len(facts):
        raise DataError(f"geography has {len(facts)} facts that may be edited, {limit} edits were asked for")
    # Each edit has its own generator, so that a shorter list is the beginning of a longer one.
    return [
        _Maker(world, division, fact, random.Random(f"edit {seed} {fact.place.key} {fact.relation.name}")).edit()
        for fact in (facts if limit is None else facts[:limit])
    ]


def is_question(place: Place, relation: Relation) -> bool:
    """Whether a place has this fact, and the answer is not its own name (the capital of Singapore)."""
    answers = place.facts.get(relation.name, ())
    return bool(answers) and answers[0] != place.name


def filled(wording: str, name: str) -> str:
    """A wording about a place; a sentence that begins with its name begins with a capital letter."""
    text = wording.replace("{}", name)
    return text[0].upper() + text[1:]


class _Maker:
    """Makes one edit."""

    def __init__(self, world: Atlas, division: Division, fact: Fact, rng: random.Random) -> None:
        self.world, self.division, self.fact, self.rng = world, division, fact, rng
        self.place, self.relation, self.form = fact.place, fact.relation, division.form

    def edit(self) -> Edit:
        target = self._target()
        prompt, *rephrases = (self.fact.prompt(wording) for wording in range(len(self.relation.wordings)))
        probes = {
            "same_subject": self._same_subject(),
            "mentions": self._mentions(target),
            "extended_names": self._extended_names(),
            "locality": self._neighbours(target),
        }
        return Edit(
            prompt=prompt,
            target=target,
            subject=self.place.bare_name,
            subject_at=self._subject_at(),
            ground_truth=self.fact.answers[0],
            rephrases=tuple(rephrases),
            portability=tuple(self._follows(target)),
            **_grouped(probes),
        )

    def _subject_at(self) -> int:
        """Where the name begins in the prompt, behind its article."""
        before = self.relation.wordings[0].index("{}")
        return before + (len(ARTICLE) if self.place.name.startswith(ARTICLE) else 0)

    def _target(self) -> str:
        """Drawn again while it is doubtful: what the table learns to doubt leaves the other edits as they are."""
        found = self._targets()
        while True:
            target = self.rng.choice(found)
            if target not in self.place.doubtful:
                return target

    def _targets(self) -> list[str]:
        """Answers that would be plausible and are not true, not even beside the main one.

        Capitals and countries are taken from the same continent, so that they are plausible. A border is never to a
        country of the same continent: there the table does not settle every border.
        """
        others = [other for other in self.world.countries.values() if other != self.place]
        if self.relation.name == "capital":
            others = [other for other in others if self._near(other) and is_question(other, self.relation)]
            useful = [other for other in others if self.division.keeps(other, "currency")]
            found = [other.facts["capital"][0] for other in useful or others]
        elif self.relation.name == "country":
            with_cities = {city.facts["country"][0] for city in self.world.cities.values()}
            found = [other.name for other in others if other.name in with_cities and self._near(other)]
        elif self.relation.name == "border":
            found = [other.name for other in others if not self._near(other) and "border" in other.facts]
        else:
            found = sorted(
                {other.facts[self.relation.name][0] for other in others if self.relation.name in other.facts}
            )
        return [answer for answer in found if answer not in self.fact.answers]

    def _near(self, other: Place) -> bool:
        """Whether another country shares a continent with this place."""
        own = self.place if self.relation in self.form.of_countries else self.world.country_named(self.fact.answers[0])
        return not set(own.facts["continent"]).isdisjoint(other.facts["continent"])

    def _same_subject(self) -> list[Probe]:
        if self.relation not in self.form.of_countries:
            return [Probe(filled(wording, self.place.name)) for wording in self.form.beside]
        kept = [fact for fact in self.division.kept.values() if fact.place == self.place]
        return [fact.probe(wording) for fact, wording in zip(kept, (0, 1), strict=False)]

    def _others(self, target: str) -> list[Fact]:
        """Keepers of the same relation whose answer is not the new one, so that a leak would be seen."""
        return [
            fact
            for fact in self.division.keepers(self.relation)
            if fact.place != self.place and target not in fact.answers
        ]

    def _neighbours(self, target: str) -> list[Probe]:
        chosen = self.rng.sample(self._others(target), NEIGHBOURS)
        return [fact.probe(wording) for fact, wording in zip(chosen, (0, 1), strict=True)]

    def _mentions(self, target: str) -> list[Probe]:
        """The place is mentioned while another one is asked about."""
        other = self.rng.choice(self._others(target)).probe(0)
        return [Probe(f"{filled(self.form.mention, self.place.name)} {other.prompt}", other.answer)]

    def _extended_names(self) -> list[Probe]:
        """Other places whose name holds this one's, as Papua New Guinea holds Guinea."""
        own = self.place.bare_name
        longer = (fact for fact in self.division.keepers(self.relation) if fact.place.bare_name != own)
        return [fact.probe(0) for fact in longer if own in fact.place.bare_name.replace("-", " ").split()]

    def _follows(self, target: str) -> list[Probe]:
        """Questions of one and two hops whose answer follows from the new one, by facts that stay."""
        found = []
        for hop in self.form.onward.get(self.relation.name, ()):
            answer = self._walk(target, hop)
            if answer is not None:
                found.append(Probe(filled(hop.wording, self.place.name), answer))
        for hop, name in self._names():
            found.append(Probe(filled(hop.wording, name), target))
        return found

    def _walk(self, answer: str, hop: Hop) -> str | None:
        """The answer at the end of a hop's path; None where the table has none, or an edit may change it."""
        for relation in hop.path:
            if relation == self.form.of_cities.name:
                answer = self.world.country_of_capital(answer).name
                continue
            country = self.world.country_named(answer)
            if not self.division.keeps(country, relation):
                return None
            answer = country.facts[relation][0]
        return answer

    def _names(self) -> list[tuple[Hop, str]]:
        """Hops that name this country by something that is in it, by facts that stay."""
        relation, found = self.relation.name, []
        if relation in self.form.by_capital and self.division.keeps(self.place, "capital"):
            found.append((self.form.by_capital[relation], self.place.facts["capital"][0]))
        if relation in self.form.by_city:
            cities = [fact for fact in self.division.keepers(self.form.of_cities) if fact.answers == (self.place.name,)]
            found += [(self.form.by_city[relation], fact.place.name) for fact in cities[:1]]
        return found


def _grouped(probes: Mapping[str, Sequence[Probe]]) -> dict[str, Any]:
    """Probes by the fields that an edit has; those of a group that it does not tell apart are locality."""
    known = {field.name for field in fields(Edit)}
    groups: dict[str, tuple[Probe, ...]] = {}
    for name, some in probes.items():
        field = name if name in known else "locality"
        groups[field] = (*groups.get(field, ()), *some)
    return groups
