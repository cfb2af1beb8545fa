"""How edits are made of the table: counts, determinism, targets that are not true, probes that no edit spoils."""

from __future__ import annotations

from collections import Counter

import pytest

from elder.datasets import load_edits, validate_stream
from elder.datasets.catalogue import DATASETS
from elder.edit import Edit, Probe
from elder.errors import DataError
from elder.geography.chat import CHAT
from elder.geography.edits import Division, Fact, filled, geography_edits
from elder.geography.facts import Place, atlas
from elder.geography.relations import PLAIN, Form
from elder.subjects import find_subject

WORLD = atlas()
SEEDS = (0, 1, 2)
PLACES = (*WORLD.countries.values(), *WORLD.cities.values())
FACTS = {
    filled(wording, place.name): (place, relation.name)
    for place in PLACES
    for relation in PLAIN.relations
    if relation.name in place.facts
    for wording in relation.wordings
}


def probes_of(edit: Edit) -> list[Probe]:
    """All that must stay as it was, whatever groups an edit has for it."""
    groups = ("locality", "same_subject", "mentions", "extended_names")
    return [probe for name in groups for probe in getattr(edit, name, ())]


def asked(edit: Edit) -> tuple[Place, str]:
    return FACTS[edit.prompt]


def test_every_relation_has_six_wordings_of_three_forms() -> None:
    for relation in PLAIN.relations:
        assert len(set(relation.wordings)) == 6
        assert all(wording.count("{}") == 1 for wording in relation.wordings)
        assert relation.wordings[1].startswith("Question: ")
        assert "?" in relation.wordings[4]
        assert all(relation.wordings[chat].endswith((":", ": the")) for chat in (2, 5))
    assert len(FACTS) == 6 * sum(len(place.facts) for place in PLACES)  # no two facts are asked in the same words


def test_three_wordings_train_and_three_are_held_out() -> None:
    for edit in geography_edits(30):
        assert len(edit.training_prompts) == len(edit.heldout_rephrases) == 3
        assert edit.training_prompts[1].startswith("Question: ")
        assert {FACTS[text] for text in (*edit.training_prompts, *edit.heldout_rephrases)} == {asked(edit)}


@pytest.mark.parametrize("seed", SEEDS)
def test_there_are_many_edits_of_every_relation_and_they_make_a_valid_stream(seed: int) -> None:
    edits = geography_edits(seed=seed)
    counts = Counter(asked(edit)[1] for edit in edits)
    assert len(edits) >= 600
    assert min(counts[relation.name] for relation in PLAIN.relations) >= 80
    assert len(validate_stream(edits)) == len(edits)


def test_a_seed_gives_the_same_edits_and_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    assert geography_edits(40, seed=3) == geography_edits(120, seed=3)[:40]
    assert geography_edits(40, seed=3) != geography_edits(40, seed=4)
    with pytest.raises(DataError, match="facts that may be edited, 5000 edits were asked for"):
        geography_edits(5000)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_is_an_answer_of_the_relation_and_never_true(seed: int) -> None:
    answers = {r.name: {value for place in PLACES for value in place.facts.get(r.name, ())} for r in PLAIN.relations}
    for edit in geography_edits(seed=seed):
        place, relation = asked(edit)
        assert edit.ground_truth == place.facts[relation][0]
        assert edit.target not in place.facts[relation]
        assert edit.target not in place.doubtful
        assert edit.target in answers["country" if relation == "border" else relation] | {
            country.name for country in WORLD.countries.values() if relation == "border"
        }


@pytest.mark.parametrize("seed", SEEDS)
def test_the_place_of_the_subject_is_known(seed: int) -> None:
    for edit in geography_edits(seed=seed):
        assert edit.subject is not None
        assert edit.subject_at is not None
        assert edit.prompt[edit.subject_at :].startswith(edit.subject)
        assert edit.subject == asked(edit)[0].bare_name
        for text in edit.rephrases:
            assert find_subject(text, edit.subject) is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_no_probe_asks_for_a_fact_that_an_edit_of_the_seed_changes(seed: int) -> None:
    edits = geography_edits(seed=seed)
    changed = {(place.key, relation) for place, relation in map(asked, edits)}
    mention = PLAIN.mention.removeprefix("{}") + " "
    for edit in edits:
        for probe in probes_of(edit):
            fact = FACTS.get(probe.prompt.rpartition(mention)[2])
            if fact is None:
                assert probe.answer is None  # what a city is known for is not in the table
                continue
            place, relation = fact
            assert (place.key, relation) not in changed
            assert probe.answer == place.facts[relation][0]


def test_probes_are_of_the_same_subject_of_a_mention_and_of_others() -> None:
    for edit in geography_edits():
        place, relation = asked(edit)
        probes = [(FACTS.get(probe.prompt), probe) for probe in probes_of(edit)]
        own = [probe for fact, probe in probes if (fact and fact[0] == place) or probe.answer is None]
        others = [fact for fact, _ in probes if fact and fact[0] != place]
        mentions = [probe for _, probe in probes if PLAIN.mention.removeprefix("{}") in probe.prompt]
        assert len(own) == 2
        assert len(others) >= 2
        assert {fact[1] for fact in others} == {relation}
        assert len(mentions) == 1
        assert mentions[0].prompt.startswith(filled(PLAIN.mention, place.name))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leak_of_the_new_answer_would_be_seen(seed: int) -> None:
    """No neighbour, asked alone or after a mention, has the new answer anyway."""
    mention = PLAIN.mention.removeprefix("{}") + " "
    for edit in geography_edits(seed=seed):
        for probe in (*edit.locality, *edit.mentions):
            place, relation = FACTS[probe.prompt.rpartition(mention)[2]]
            assert edit.target not in place.facts[relation]


def test_the_two_probes_of_the_same_subject_are_asked_in_two_forms() -> None:
    forms = {relation.name: relation.wordings for relation in PLAIN.of_countries}
    for edit in geography_edits(100):
        if asked(edit)[1] == "country":
            continue
        for number, probe in enumerate(edit.same_subject):
            place, relation = FACTS[probe.prompt]
            assert probe.prompt == filled(forms[relation][number], place.name)


def test_longer_names_hold_the_name_as_a_word() -> None:
    edits = [edit for seed in SEEDS for edit in geography_edits(seed=seed)]
    found = {(edit.subject, probe.prompt) for edit in edits for probe in edit.extended_names}
    assert found
    for subject, prompt in found:
        assert subject in FACTS[prompt][0].bare_name.replace("-", " ").split()
        assert subject != FACTS[prompt][0].bare_name
    assert any(edit.subject == "Niger" for edit in edits)  # of which Nigeria is no longer name


def test_names_that_hold_another_are_probes() -> None:
    found = {
        probe.prompt
        for seed in SEEDS
        for edit in geography_edits(seed=seed)
        if edit.subject == "Guinea"
        for probe in probes_of(edit)
    }
    assert any("Papua New Guinea" in text or "Guinea-Bissau" in text or "Equatorial Guinea" in text for text in found)


def value(name: str, relation: str) -> str:
    """One step of a chain, by the table alone: `country` leads from a capital to its country."""
    if relation == "country":
        (found,) = (place.name for place in WORLD.countries.values() if name in place.facts.get("capital", ())[:1])
        return found
    (place,) = (place for place in WORLD.countries.values() if place.name == name)
    return place.facts[relation][0]


@pytest.mark.parametrize("seed", SEEDS)
def test_hops_are_right_by_following_the_table(seed: int) -> None:
    edits = geography_edits(seed=seed)
    changed = {(place.name, relation) for place, relation in map(asked, edits)}
    followed = Counter[int]()
    for edit in edits:
        place, relation = asked(edit)
        onward = {filled(hop.wording, place.name): hop.path for hop in PLAIN.onward.get(relation, ())}
        for probe in edit.portability:
            if probe.prompt not in onward:
                continue
            answer = edit.target
            for step in onward[probe.prompt]:
                assert (answer, step) not in changed
                answer = value(answer, step)
            assert probe.answer == answer
            followed[len(onward[probe.prompt])] += 1
    assert followed[1] >= 100
    assert followed[2] >= 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_country_named_by_its_capital_or_city_has_the_new_fact_too(seed: int) -> None:
    division = Division(WORLD, seed)
    counts = Counter[str]()
    for edit in geography_edits(seed=seed):
        place, relation = asked(edit)
        named = [(PLAIN.by_capital.get(relation), place.facts.get("capital", ("",))[0], (place.key, "capital"))]
        named += [
            (PLAIN.by_city.get(relation), city.name, (city.key, "country"))
            for city in WORLD.cities.values()
            if city.facts["country"] == (place.name,)
        ]
        wordings = {filled(hop.wording, name): fact for hop, name, fact in named if hop is not None}
        for probe in edit.portability:
            if probe.prompt in wordings:
                assert wordings[probe.prompt] in division.kept
                assert probe.answer == edit.target
                counts[relation] += 1
    assert set(counts) == {"capital", "currency", "language", "continent"}


def test_it_is_a_dataset_of_its_own() -> None:
    assert "geography" in DATASETS
    edits = load_edits("geography", limit=12, seed=5)
    assert list(edits) == geography_edits(12, seed=5)
    assert edits.places[3] == "geography edit 3"
    shuffled = load_edits("geography", limit=12, seed=5, order="shuffled")
    assert len(shuffled) == 12
    assert list(shuffled) != list(edits)
    with pytest.raises(DataError, match="takes no path"):
        load_edits("geography", path="countries.csv")


def test_a_fact_is_asked_with_its_article_and_a_capital_letter() -> None:
    country = next(relation for relation in PLAIN.relations if relation.name == "currency")
    fact = Fact(WORLD.countries["NL"], country)
    assert fact.prompt(0) == "The official currency of the Netherlands is the"
    assert filled(PLAIN.mention, fact.place.name) == "The Netherlands was mentioned."


def kept_prompts(form: Form, seed: int) -> dict[tuple[str, str], str]:
    return {key: fact.prompt(0) for key, fact in Division(WORLD, seed, form).kept.items()}


def test_the_chat_asks_for_the_same_facts_and_targets_in_messages() -> None:
    plain, chat = load_edits("geography", limit=200, seed=1), load_edits("geography:chat", limit=200, seed=1)
    assert kept_prompts(CHAT, 1).keys() == kept_prompts(PLAIN, 1).keys()
    for one, other in zip(plain, chat, strict=True):
        assert (one.subject, one.target, one.ground_truth) == (other.subject, other.target, other.ground_truth)
        for name in ("rephrases", "locality", "same_subject", "mentions", "extended_names", "portability"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert [getattr(p, "answer", None) for p in ours] == [getattr(p, "answer", None) for p in theirs]
        texts = [other.prompt, *other.rephrases, *(p.prompt for p in (*other.portability, *probes_of(other)))]
        assert all(text.endswith(("?", ".")) for text in texts)
        assert other.subject_at is not None
        assert other.prompt[other.subject_at :].startswith(str(other.subject))


def test_no_two_questions_of_the_chat_have_the_same_words() -> None:
    asked = [
        filled(wording, place.name)
        for place in PLACES
        for relation in CHAT.relations
        if relation.name in place.facts
        for wording in relation.wordings
    ]
    assert len(asked) == len(set(asked)) == len(FACTS)


def test_the_former_data_set_of_countries_leads_to_the_chat() -> None:
    with pytest.warns(FutureWarning, match="'countries' was replaced by 'geography:chat'"):
        former = load_edits("countries", limit=4)
    assert list(former) == geography_edits(4, form=CHAT)
