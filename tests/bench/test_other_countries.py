"""Options are chosen on countries that no table edits."""

from __future__ import annotations

from bench.other_countries import country, untouched
from elder.datasets.load import load_edits


def test_no_country_of_the_tables_is_left() -> None:
    streams = [load_edits("geography", seed=seed)[:200] for seed in (0, 1)]
    found = untouched(streams, taken=40)
    assert found
    tables = {country(edit) for stream in streams for edit in stream[:40]}
    assert tables.isdisjoint({country(edit) for edit in found})
    assert len({edit.prompt for edit in found}) == len(found)
    assert not any(edit.portability or edit.mentions for edit in found)


def test_a_city_counts_as_its_country() -> None:
    edit = next(edit for edit in load_edits("geography") if edit.prompt.startswith("The city of Kisumu "))
    assert country(edit) == "Kenya"
