"""What must be true of the table of countries and cities, whoever changes it."""

from __future__ import annotations

import re
from collections import Counter

from elder.geography.facts import ARTICLE, CONTINENTS, atlas
from elder.geography.relations import PLAIN

COUNTRIES, CITIES = atlas().countries, atlas().cities


def test_there_are_enough_countries_and_cities() -> None:
    assert len(COUNTRIES) >= 190
    assert len(CITIES) >= 150
    facts = Counter(relation for country in COUNTRIES.values() for relation in country.facts)
    assert facts["continent"] == len(COUNTRIES)
    assert min(facts[relation.name] for relation in PLAIN.of_countries) >= 140


def test_codes_and_names_are_distinct() -> None:
    assert all(re.fullmatch("[A-Z]{2}", code) for code in COUNTRIES)
    names = [country.bare_name for country in COUNTRIES.values()]
    assert len(set(names)) == len(names)
    assert list(COUNTRIES) == sorted(COUNTRIES)


def test_every_value_is_clean_text_and_comes_once() -> None:
    for place in (*COUNTRIES.values(), *CITIES.values()):
        for relation, values in place.facts.items():
            assert len(set(values)) == len(values), (place.name, relation)
            assert all(value == value.strip() and value for value in values), (place.name, relation)


def test_continents_are_of_a_fixed_list() -> None:
    assert {name for country in COUNTRIES.values() for name in country.facts["continent"]} == set(CONTINENTS)


def test_no_city_is_the_capital_of_two_countries_and_no_capital_is_among_the_cities() -> None:
    capitals = Counter(city for country in COUNTRIES.values() for city in country.facts.get("capital", ()))
    assert [city for city, count in capitals.items() if count > 1] == []
    assert set(capitals) & set(CITIES) == set()


def test_borders_are_of_known_countries_and_symmetric() -> None:
    by_name = {country.name: country for country in COUNTRIES.values()}
    for country in COUNTRIES.values():
        for other in country.facts.get("border", ()):
            assert other != country.name
            assert country.name in by_name[other].facts["border"], (country.name, other)


def test_every_city_is_in_a_known_country() -> None:
    names = {country.name for country in COUNTRIES.values()}
    assert {name for city in CITIES.values() for name in city.facts["country"]} <= names


def test_well_known_facts() -> None:
    # A shifted column would pass all that is above.
    assert COUNTRIES["NL"].name == f"{ARTICLE}Netherlands"
    found = {"KE": [COUNTRIES["KE"].facts[relation.name][0] for relation in PLAIN.of_countries]}
    assert found == {"KE": ["Nairobi", "Kenyan shilling", "Swahili", "Africa", "Tanzania"]}
    assert COUNTRIES["CH"].facts["language"] == ("German", "French", "Italian", "Romansh")
    assert "border" not in COUNTRIES["JP"].facts
    assert CITIES["Kyoto"].facts["country"] == ("Japan",)


def test_what_is_disputed_is_left_out() -> None:
    assert "capital" not in COUNTRIES["IL"].facts
    assert "border" not in COUNTRIES["CY"].facts
    assert "Albania" not in COUNTRIES["RS"].facts["border"]


def test_what_is_doubtful_is_an_answer_of_the_table_and_no_fact_of_the_place() -> None:
    places = (*COUNTRIES.values(), *CITIES.values())
    known = {value for place in places for values in place.facts.values() for value in values}
    found = [(place, answer) for place in places for answer in place.doubtful]
    assert len(found) >= 110
    for place, answer in found:
        assert answer in known, (place.name, answer)  # a word that is no answer keeps nothing away
        assert all(answer not in values for values in place.facts.values()), (place.name, answer)
    assert {"South America", "Africa"} <= set(COUNTRIES["FR"].doubtful)  # French Guiana, Réunion
    assert CITIES["Bergen"].doubtful == ("Germany", "the Netherlands", "Belgium")
