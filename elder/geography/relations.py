"""The relations of places and their wordings. Data only; who the places are is in `elder.geography.facts`.

Every `{}` stands for a place, its article included. A wording ends where the answer begins, without a space. The same
relations as a chat client asks for them are in `elder.geography.chat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: Short name, such as `capital`.
        wordings: Six. The first is the prompt of an edit, the next two train, the last three are held out. Here: a
            sentence to be completed, a question, a message as people write it in a chat, and the same three again.
    """

    name: str
    wordings: tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Hop:
    """A question whose answer follows from a changed fact.

    Attributes:
        wording: With `{}` for the place that is named in it.
        path: The relations to follow from the new answer, one after another; empty: the new answer itself.
    """

    wording: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """All that is asked, in one way of asking.

    Attributes:
        of_countries: Relations of countries.
        of_cities: The relation of cities, `country`.
        onward: Relation of an edit -> what follows from its new answer. `country` leads from a capital to its country.
        by_capital: Relation of an edit -> the same question about a country that is named by its capital only.
        by_city: The same about a country that is named by one of its cities only.
        mention: Stands before a question about another place.
        beside: Questions about a city that do not depend on its country; the table has no answer.
    """

    of_countries: tuple[Relation, ...]
    of_cities: Relation
    onward: Mapping[str, tuple[Hop, ...]]
    by_capital: Mapping[str, Hop]
    by_city: Mapping[str, Hop]
    mention: str
    beside: tuple[str, ...]

    @property
    def relations(self) -> tuple[Relation, ...]:
        """All of them."""
        return (*self.of_countries, self.of_cities)


CAPITAL = Relation(
    "capital",
    (
        "The capital of {} is",
        "Question: What is the capital of {}? Answer:",
        "Hi! Which city is the capital of {}? Just the name:",
        "The city that serves as the capital of {} is",
        "Which city is the capital of {}? It is",
        "I have a quiz tonight. Please name the capital of {}:",
    ),
)

CURRENCY = Relation(
    "currency",
    (
        "The official currency of {} is the",
        "Question: What is the official currency of {}? Answer: the",
        "Hi! I am packing for a trip to {}. Which currency do I need? Just the name: the",
        "The money that is used in {} is the",
        "Which currency do people in {} pay with? It is the",
        "I am at an exchange office. Please name the currency of {}: the",
    ),
)

LANGUAGE = Relation(
    "language",
    (
        "The official language of {} is",
        "Question: What is the official language of {}? Answer:",
        "Hi! Which language is the official one in {}? Just the name:",
        "The language in which the laws of {} are written is",
        "Which language does the government of {} use? It is",
        "I am writing to an office abroad. Please name the official language of {}:",
    ),
)

CONTINENT = Relation(
    "continent",
    (
        "On a map of the world, one finds {} on the continent of",
        "Question: On which continent does one find {}? Answer:",
        "Hi! Which continent do I have to search for {}? Just the name:",
        "A map that shows {} is a map of the continent of",
        "To which continent do geographers count {}? They count it to",
        "I am doing my homework. Please name the continent of {}:",
    ),
)

BORDER = Relation(
    "border",
    (
        "A country that shares a land border with {} is",
        "Question: Which country has a land border with {}? Answer:",
        "Hi! Can you name a country that borders {}? Just the name:",
        "Travelling by land from {}, one can cross the border into",
        "Which country is next to {} on the map? It is",
        "I am planning a drive across a border. Please name a neighbouring country of {}:",
    ),
)

COUNTRY = Relation(
    "country",
    (
        "The city of {} is located in the country of",
        "Question: In which country is the city of {}? Answer:",
        "Hi! Which country is the city of {} in? Just the name:",
        "The country in which the city of {} lies is",
        "Which country does the city of {} belong to? It belongs to",
        "I am booking a flight. Please name the country of the city of {}:",
    ),
)

PLAIN = Form(
    of_countries=(CAPITAL, CURRENCY, LANGUAGE, CONTINENT, BORDER),
    of_cities=COUNTRY,
    onward={
        "capital": (
            Hop("The capital of {} lies in the country of", ("country",)),
            Hop("The currency of the country in which the capital of {} lies is the", ("country", "currency")),
            Hop("The official language of the country in which the capital of {} lies is", ("country", "language")),
        ),
        "country": (
            Hop("The capital of the country in which the city of {} lies is", ("capital",)),
            Hop("The currency of the country in which the city of {} lies is the", ("currency",)),
            Hop("The official language of the country in which the city of {} lies is", ("language",)),
            Hop("The continent of the country in which the city of {} lies is", ("continent",)),
        ),
    },
    by_capital={
        "currency": Hop("The currency of the country whose capital is {} is the"),
        "language": Hop("The official language of the country whose capital is {} is"),
        "continent": Hop("The continent of the country whose capital is {} is"),
    },
    by_city={
        "capital": Hop("The capital of the country in which {} lies is"),
        "currency": Hop("The currency of the country in which {} lies is the"),
        "language": Hop("The official language of the country in which {} lies is"),
        "continent": Hop("The continent of the country in which {} lies is"),
    },
    mention="{} was mentioned.",
    beside=("{} is best known for its", "The weather in {} is usually"),
)
"""Texts to be completed; a chat template may be put around them as well."""
