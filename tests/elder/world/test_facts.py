"""Who lives in a generated world, what is true there, and how edits of it are drawn."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from elder.errors import DataError, ModelError
from elder.world.edits import world_edits
from elder.world.facts import FIRST_NAMES, LAST_HEADS, LAST_TAILS, make_names, make_world, named_world
from elder.world.recipe import RECIPES, find_recipe
from elder.world.relations import RELATIONS


def test_names_are_distinct_and_last_names_too_while_they_last() -> None:
    names = make_names(1500, random.Random(1))
    assert len(set(names)) == 1500
    assert all(len(name.split()) == 2 for name in names)
    many = len(LAST_HEADS) * len(LAST_TAILS)
    assert len({name.split()[1] for name in names}) == min(1500, many)
    assert len(set(make_names(2 * many, random.Random(1)))) == 2 * many
    with pytest.raises(ValueError, match="were asked for"):
        make_names(many * len(FIRST_NAMES) + 1, random.Random(1))


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_a_relation_has_enough_wordings_and_answers(relation) -> None:  # type: ignore[no-untyped-def]
    assert len(set(relation.templates)) == len(relation.templates) >= 8
    assert all(text.count("{}") == 1 and text == text.strip() for text in relation.templates)
    assert any(text.startswith("{}") for text in relation.templates)
    assert any(not text.startswith("{}") for text in relation.templates)
    assert any("?" in text for text in relation.templates)
    assert 30 <= len(relation.objects) <= 60
    assert len(set(relation.objects)) == len(relation.objects)
    assert {len(text.split()) for text in relation.objects} == {1, 2}


@pytest.mark.parametrize("name", RECIPES)
def test_a_world_follows_from_its_seed_and_keeps_its_promises(name: str) -> None:
    size = find_recipe(name).size
    world = named_world(f"world:{name}")
    assert world == make_world(size)
    assert len(world.people) == size.people
    assert len(world.facts) == size.people * size.relations
    editable = Counter(fact.person for fact in world.facts if fact.editable)
    assert set(editable.values()) == {size.editable_per_person}
    assert not set(editable) & world.protected
    assert len(editable) == size.people - size.protected
    shown: Counter[tuple[str, int]] = Counter()
    for fact in world.facts:
        assert len(fact.trained) == size.trained_templates
        assert sorted(fact.trained + fact.heldout) == list(range(len(fact.relation.templates)))
        shown.update((fact.relation.name, template) for template in fact.trained)
    assert all(
        shown[relation.name, i] for relation in RELATIONS[: size.relations] for i in range(len(relation.templates))
    )


def test_the_small_world_is_large_enough() -> None:
    world = named_world("small")
    assert len(world.people) >= 500
    assert len(world.facts) >= 1500
    assert sum(fact.editable for fact in world.facts) >= 1000


@pytest.mark.parametrize(("name", "said"), [("smal", "'world:small'"), ("world:xyzzy", "world:tiny")])
def test_an_unknown_world_is_refused_with_a_suggestion(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        find_recipe(name)


def test_edits_are_true_to_the_world() -> None:
    world = named_world("small")
    fact_of = {fact.prompt(i): (fact, i) for fact in world.facts for i in range(len(fact.relation.templates))}
    edits = world_edits("small")
    assert len({(fact_of[e.prompt][0].person, fact_of[e.prompt][0].relation.name) for e in edits}) == len(edits) >= 1000
    assert len({edit.id for edit in edits}) == len(edits)
    for edit in edits:
        fact, _ = fact_of[edit.prompt]
        assert fact.editable
        assert edit.subject == fact.person
        assert edit.ground_truth == fact.answer != edit.target
        assert edit.target in fact.relation.objects
        assert {fact_of[text][0] for text in edit.rephrases} == {fact}
        assert len(edit.training_prompts) == 3
        assert {fact_of[text][1] for text in edit.training_prompts} <= set(fact.trained)
        assert len(edit.heldout_rephrases) == 2
        assert {fact_of[text][1] for text in edit.heldout_rephrases} <= set(fact.heldout)


def test_locality_probes_ask_for_three_facts_that_no_edit_touches() -> None:
    world = named_world("small")
    fact_of = {fact.prompt(i): fact for fact in world.facts for i in range(len(fact.relation.templates))}
    for edit in world_edits("small", 300, seed=3):
        subject = fact_of[edit.prompt]
        facts = [fact_of[probe.prompt] for probe in edit.locality]
        assert [fact.answer for fact in facts] == [probe.answer for probe in edit.locality]
        assert not any(fact.editable for fact in facts)
        assert len(set(facts)) == 3
        assert facts[0].person == subject.person
        assert facts[0].relation != subject.relation
        assert facts[1].relation == subject.relation
        assert facts[1].person != subject.person


def test_edits_have_the_prefix_property_and_depend_on_the_seed() -> None:
    assert world_edits("tiny", 10) == world_edits("tiny")[:10] == world_edits("world:tiny", 40)[:10]
    one, two = world_edits("tiny", 40, seed=1), world_edits("tiny", 40, seed=2)
    assert {edit.prompt for edit in one} != {edit.prompt for edit in two}
    assert world_edits("tiny", 0) == []


def test_more_edits_than_there_are_facts_is_refused() -> None:
    with pytest.raises(DataError, match="may be edited, 5000 edits were asked for"):
        world_edits("small", 5000)
