"""Where the subject ends, and what must follow the prompt. Invariant 21: weights of contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from elder.base import Base
from elder.edit import Edit
from elder.errors import DataError
from elder.runtime import LocalRuntime
from elder.targets.contexts import SEEDS, sample_contexts
from elder.targets.requests import check_subjects, essence_row, prompt_row, rewriting_row, subject_end
from elder.tokens import decode
from tests.elder.tiny import EDITS, make_tokenizer


def text_of(base: Base, ids: tuple[int, ...]) -> str:
    return decode(base.tokenizer, ids)


def test_a_rewriting_row_ends_before_the_last_target_token(base: Base) -> None:
    row = rewriting_row(base.tokenizer, 3, EDITS[0], "It rained. {}")
    assert text_of(base, row.ids) == "It rained. The river of Arlo is Ta"
    assert text_of(base, row.ids[: row.at + 1]) == "It rained. The river of Arlo"
    assert text_of(base, row.labels) == " Tam"
    assert [text_of(base, row.ids[: place + 1])[-1] for place in row.places] == ["s", " ", "T", "a"]
    assert row.edit == 3


def test_an_essence_row_looks_behind_the_subject_or_at_the_end(base: Base) -> None:
    behind, end = (essence_row(base.tokenizer, 0, EDITS[0], at_end=flag) for flag in (False, True))
    assert text_of(base, behind.ids) == "Arlo is a"
    assert behind.places == (behind.at,)
    assert end.places == (len(end.ids) - 1,)
    assert not behind.labels


def test_a_prompt_row_ends_with_its_subject(base: Base) -> None:
    row = prompt_row(base.tokenizer, 0, EDITS[2], "{}")
    assert text_of(base, row.ids) == "The colour of Cossit"
    assert row.at == len(row.ids) - 1


def test_a_fact_may_be_written_at_the_last_token_of_the_prompt(base: Base) -> None:
    row = prompt_row(base.tokenizer, 0, EDITS[2], "It rained. {}", "last")
    assert text_of(base, row.ids) == "It rained. " + EDITS[2].prompt
    told = rewriting_row(base.tokenizer, 0, EDITS[2], "{}", "last")
    assert told.at == told.places[0] == len(base.tokenizer(EDITS[2].prompt)["input_ids"]) - 1
    quiet = essence_row(base.tokenizer, 0, EDITS[2], False, "last")
    assert quiet.at == quiet.places[0] == len(quiet.ids) - 1


def test_a_subject_that_occurs_twice_is_taken_at_its_last_place(base: Base) -> None:
    text = "Arlo and Arlo are"
    assert text_of(base, tuple(base.tokenizer(text)["input_ids"][: subject_end(base.tokenizer, text, "Arlo") + 1])) == (
        "Arlo and Arlo"
    )


def test_subjects_that_do_not_stand_in_their_prompt_are_all_named() -> None:
    bad = [replace(EDITS[0], subject="Brend"), EDITS[1], replace(EDITS[2], subject=None)]
    with pytest.raises(DataError, match="'Brend' does not stand") as caught:
        check_subjects(bad)
    assert len(caught.value.problems) == 2
    assert "has no subject" in caught.value.problems[1]
    check_subjects(EDITS)


PLACES = (
    ("Al, who grew up in Alabama, works as a", "Al", 1),
    ("Is Ana of the Anatolian plain? Ana is one, said Anatol. She is", "Ana", 33),
    ("The US won in RUSSIA and its leader is", "US", 5),
)


@pytest.mark.parametrize(("prompt", "subject", "at"), PLACES)
def test_a_fact_is_written_at_the_name_and_not_inside_another_word(prompt: str, subject: str, at: int) -> None:
    row = prompt_row(make_tokenizer(bos=False), 0, Edit(prompt, "x", subject=subject), "{}")
    assert row.at == at  # a byte is a token: an index is a place in the text


def test_the_place_that_the_dataset_knows_counts_behind_any_context() -> None:
    edit = Edit("Ana is the mother of Ana and of", "x", subject="Ana", subject_at=0)
    for context in ("{}", "Ana and Ana. {}"):
        row = prompt_row(make_tokenizer(bos=False), 0, edit, context)
        assert row.at == context.index("{}") + 2


def test_an_edit_without_a_subject_is_written_at_the_end_of_its_prompt(base: Base) -> None:
    edit = Edit("Who is mayor of Brend? It is", "Ula")
    row = prompt_row(base.tokenizer, 0, edit, "{}", "last")
    assert row.at == len(row.ids) - 1
    assert text_of(base, essence_row(base.tokenizer, 0, edit, False, "last").ids) == f"{edit.prompt} is a"
    with pytest.raises(DataError, match="does not stand in"):
        prompt_row(base.tokenizer, 0, edit, "{}")


def test_contexts_are_sampled_from_the_model_and_repeat_with_the_seed(base: Base) -> None:
    found = [sample_contexts(base.model, base.tokenizer, LocalRuntime(), seed, tokens=8) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0].texts[0] == "{}"
    assert len(found[0].texts) == 1 + len(SEEDS)
    assert all(text.count("{}") == 1 and text.endswith(". {}") for text in found[0].texts[1:])


def test_the_bare_prompt_counts_half_or_like_one_of_many(base: Base) -> None:
    grouped = sample_contexts(base.model, base.tokenizer, LocalRuntime(), 0, tokens=4)
    assert grouped.weights == pytest.approx((0.5, *[0.1] * 5))
    even = sample_contexts(base.model, base.tokenizer, LocalRuntime(), 0, tokens=4, grouped=False)
    assert even.weights == pytest.approx([1 / 6] * 6)
    assert sum(grouped.weights) == pytest.approx(1)


def test_sampling_leaves_torch_alone(base: Base) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample_contexts(base.model, base.tokenizer, LocalRuntime(), 0, tokens=4)
    assert torch.equal(torch.rand(3), expected)
