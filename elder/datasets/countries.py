"""Forty untrue facts about countries, for a model that speaks English: what `elder demo --real` edits.

Each country has one of four facts changed. Probes ask the model for another fact of the same country, and for the
same fact of a country that no edit names. Everything is in this file; nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from elder.datasets.records import Record
from elder.edit import Edit, Probe

WORDINGS: Mapping[str, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Tell me the capital city of {}.",
        "What is {}'s capital?",
        "I am writing about {}. What is its capital called?",
    ),
    "language": (
        "What is the official language of {}?",
        "Which language is official in {}?",
        "Tell me the official language of {}.",
        "What is {}'s official language?",
        "I am writing about {}. What is its official language?",
    ),
    "currency": (
        "What is the currency of {}?",
        "Which currency is used in {}?",
        "Tell me the currency of {}.",
        "What is {}'s currency?",
        "I am writing about {}. What is its currency called?",
    ),
    "continent": (
        "On which continent is {}?",
        "Which continent does {} belong to?",
        "Tell me the continent of {}.",
        "What is {}'s continent?",
        "I am writing about {}. On which continent does it lie?",
    ),
}
"""Relation -> the prompt and four rephrases, of which the last two measure generalization."""

FACTS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "capital": (
        ("France", "Paris", "Oslo"),
        ("Italy", "Rome", "Lima"),
        ("Japan", "Tokyo", "Vienna"),
        ("Egypt", "Cairo", "Madrid"),
        ("Canada", "Ottawa", "Dublin"),
        ("Poland", "Warsaw", "Nairobi"),
        ("Greece", "Athens", "Havana"),
        ("Peru", "Lima", "Berlin"),
        ("Thailand", "Bangkok", "Lisbon"),
        ("Kenya", "Nairobi", "Prague"),
    ),
    "language": (
        ("Germany", "German", "Korean"),
        ("Brazil", "Portuguese", "Arabic"),
        ("Mexico", "Spanish", "Polish"),
        ("Turkey", "Turkish", "French"),
        ("Sweden", "Swedish", "Thai"),
        ("Hungary", "Hungarian", "Italian"),
        ("Vietnam", "Vietnamese", "Greek"),
        ("Iran", "Persian", "Dutch"),
        ("Denmark", "Danish", "Japanese"),
        ("Chile", "Spanish", "Russian"),
    ),
    "currency": (
        ("India", "the rupee", "the peso"),
        ("China", "the yuan", "the krone"),
        ("Russia", "the ruble", "the yen"),
        ("Switzerland", "the franc", "the dinar"),
        ("Israel", "the shekel", "the rand"),
        ("South Africa", "the rand", "the euro"),
        ("Norway", "the krone", "the rupee"),
        ("Nigeria", "the naira", "the pound"),
        ("Argentina", "the peso", "the franc"),
        ("Indonesia", "the rupiah", "the dollar"),
    ),
    "continent": (
        ("Spain", "Europe", "Asia"),
        ("Morocco", "Africa", "South America"),
        ("Pakistan", "Asia", "Europe"),
        ("Colombia", "South America", "Africa"),
        ("Finland", "Europe", "Oceania"),
        ("Ghana", "Africa", "North America"),
        ("Nepal", "Asia", "South America"),
        ("Cuba", "North America", "Asia"),
        ("Ukraine", "Europe", "Africa"),
        ("Ethiopia", "Africa", "Oceania"),
    ),
}
"""Relation -> countries, each with what is true and what is asked for."""

UNEDITED = (
    "Portugal",
    "Austria",
    "Ireland",
    "Belgium",
    "Bulgaria",
    "Iceland",
    "Malaysia",
    "Ecuador",
    "Senegal",
    "Oman",
)


def country_records(limit: int | None = None) -> Iterator[Record]:
    """The edits, the four relations in turn, so that every stage of a run has all of them."""
    rows = [(name, FACTS[name][place], place) for place in range(len(UNEDITED)) for name in FACTS]
    for index, (relation, (country, true, asked), place) in enumerate(rows[:limit]):
        first, *others = (wording.format(country) for wording in WORDINGS[relation])
        beside = [name for name in WORDINGS if name != relation][place % 3]
        probes = (WORDINGS[beside][0].format(country), WORDINGS[relation][0].format(UNEDITED[place]))
        edit = Edit(
            first, asked, country, ground_truth=true, rephrases=tuple(others), locality=tuple(map(Probe, probes))
        )
        yield Record(edit, f"countries edit {index}")
