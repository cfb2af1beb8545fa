"""The table of countries and cities, read from `countries.tsv` and `cities.tsv` beside this file.

A cell holds one value or several, separated by `;`: all are official, at least in a region, and the first is the main
one. `-` means that the table takes no side, because the matter is disputed or not settled; an empty cell means that
there is nothing (an island borders nobody). `doubtful` lists answers that are neither plainly true nor plainly false:
continents on which a smaller part of the country lies, languages that offices use or that are official in a smaller
part, currencies that people pay with beside the official one, countries in which a smaller place has a city's name.
Knows nothing of edits.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType

CONTINENTS = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania")
ARTICLE = "the "
UNSETTLED = "-"


@dataclass(frozen=True)
class Place:
    """A country or a city.

    Attributes:
        key: ISO 3166-1 alpha-2 code of a country, the name of a city.
        name: As it stands inside a sentence, such as `the Netherlands`.
        facts: Name of a relation -> its values, the main one first; a relation without a value is not there.
        doubtful: Answers, of whatever relation, that are neither true nor false.
    """

    key: str
    name: str
    facts: Mapping[str, tuple[str, ...]] = field(hash=False)
    doubtful: tuple[str, ...] = ()

    @property
    def bare_name(self) -> str:
        """The name without its article."""
        return self.name.removeprefix(ARTICLE)


@dataclass(frozen=True)
class Atlas:
    """All places.

    Attributes:
        countries: ISO code -> country, with the relations `continent`, `capital`, `currency`, `language` and `border`.
        cities: Name -> city, none of them a capital, with the relation `country`.
    """

    countries: Mapping[str, Place]
    cities: Mapping[str, Place]

    def country_named(self, name: str) -> Place:
        """The country of a name, article included.

        Raises:
            KeyError: There is none.
        """
        for place in self.countries.values():
            if place.name == name:
                return place
        raise KeyError(name)

    def country_of_capital(self, city: str) -> Place:
        """The country that has this main capital.

        Raises:
            KeyError: There is none.
        """
        for place in self.countries.values():
            if place.facts.get("capital", ("",))[0] == city:
                return place
        raise KeyError(city)


@cache
def atlas() -> Atlas:
    """The table, read once; borders and countries are given by name there, not by code."""
    rows = _rows("countries.tsv")
    names = {row["code"]: row["name"] for row in rows}
    countries = {}
    for row in rows:
        facts = {name: _values(row[name]) for name in ("continent", "capital", "currency", "language")}
        facts["border"] = tuple(names[code] for code in _values(row["borders"]))
        countries[row["code"]] = _place(row["code"], row["name"], facts, _values(row["doubtful"]))
    cities = {}
    for row in _rows("cities.tsv"):
        facts = {"country": tuple(names[code] for code in _values(row["country"]))}
        doubtful = tuple(names[code] for code in _values(row["doubtful"]))
        cities[row["city"]] = _place(row["city"], row["city"], facts, doubtful)
    return Atlas(MappingProxyType(countries), MappingProxyType(cities))


def _place(key: str, name: str, facts: Mapping[str, tuple[str, ...]], doubtful: tuple[str, ...] = ()) -> Place:
    there = {relation: values for relation, values in facts.items() if values}
    return Place(key, name, MappingProxyType(there), doubtful)


def _values(cell: str) -> tuple[str, ...]:
    return () if cell in ("", UNSETTLED) else tuple(cell.split(";"))


def _rows(name: str) -> list[dict[str, str]]:
    lines = files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))
