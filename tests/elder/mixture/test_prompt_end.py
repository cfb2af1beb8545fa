"""Where the prompts of a pass end, as callers say it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elder.mixture.prompt_end import PromptEnds, given_ends

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
X = -100


def ends(placed: Tensor | None = None, past: int = 0, length: int = 5, **kwargs: Any) -> PromptEnds | None:
    return given_ends(kwargs, placed, 2, past, length)


def columns(*args: Any, **kwargs: Any) -> list[int]:
    found = ends(*args, **kwargs)
    assert found is not None
    assert found.furthest >= int(found.columns.max())
    return found.columns.tolist()


def test_nothing_is_said_by_tokens_and_their_mask() -> None:
    assert ends(attention_mask=LEFT, input_ids=LEFT) is None


@pytest.mark.parametrize(("mask", "wanted"), [(LEFT, [4, 4]), (RIGHT, [2, 4]), (RIGHT.bool(), [2, 4])])
def test_a_mask_ends_at_its_last_one_whichever_side_is_padded(mask: Tensor, wanted: list[int]) -> None:
    assert columns(prompt_mask=mask) == wanted
    assert columns(prompt_mask=mask, past=7, length=1) == wanted  # counted from the beginning of the sequence


@pytest.mark.parametrize("kind", ["number", "list", "tensor"])
def test_a_length_counts_real_tokens(kind: str) -> None:
    counts: Any = {"number": 3, "list": [3, 3], "tensor": torch.tensor([3, 3])}[kind]
    assert columns(prompt_length=counts) == [2, 2]
    assert columns(prompt_length=counts, attention_mask=LEFT) == [4, 2]
    assert columns(prompt_length=counts, attention_mask=RIGHT) == [2, 2]
    # three cached tokens and two new ones: the mask is that of all five
    assert columns(prompt_length=counts, attention_mask=LEFT, past=3, length=2) == [4, 2]
    # without a mask over all tokens nothing is known of padding
    assert columns(prompt_length=counts, attention_mask=LEFT, past=3, length=5) == [2, 2]


def test_each_row_has_its_own_length() -> None:
    assert columns(prompt_length=[2, 4], attention_mask=LEFT) == [3, 3]
    assert columns(prompt_length=[0, 1]) == [0, 0]


def test_positions_that_were_set_around_the_call_count_cached_tokens() -> None:
    assert columns(torch.tensor([3, 1])) == [3, 1]
    assert columns(torch.tensor([6, 3]), past=5, length=3) == [6, 3]


def test_the_first_wanted_label_comes_right_after_the_prompt() -> None:
    labels = torch.tensor([[X, X, 5, 6, 7], [X, X, X, X, 7]])
    assert columns(labels=labels) == [1, 3]
    assert columns(labels=labels, past=4) == [5, 7]
    assert columns(labels=torch.tensor([[X, X, X, X, X], [X, 5, 5, X, X]])) == [4, 0]  # nothing is wanted of a row


def test_labels_of_a_whole_text_say_nothing_of_a_prompt() -> None:
    assert ends(labels=torch.tensor([[4, 4, 5, 6, 7], [X, X, X, X, 7]])) is None
    assert ends(labels=torch.ones(2, 4, dtype=torch.long)) is None  # no label for each token
    assert ends(labels=None) is None
    whole = torch.tensor([[X, X, 5, 6, 7], [X, 3, 5, 6, 7]])  # padding has no label, and everything else has one
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    assert ends(labels=whole, attention_mask=mask) is None
    assert columns(labels=whole, attention_mask=torch.ones(2, 5)) == [1, 0]
    assert columns(labels=whole, attention_mask=torch.ones(2, 9), past=4) == [5, 4]
    answers = torch.tensor([[X, X, X, 6, 7], [X, X, 5, 6, 7]])
    assert columns(labels=answers, attention_mask=mask) == [2, 1]


def test_what_is_said_plainest_counts() -> None:
    labels = torch.tensor([[X, 5, 5, 6, 7]] * 2)
    said = {"labels": labels, "prompt_length": 3, "prompt_mask": RIGHT}
    at = torch.tensor([4, 4])
    assert columns(at, **said) == [2, 4]
    del said["prompt_mask"]
    assert columns(at, **said) == [2, 2]
    del said["prompt_length"]
    assert columns(at, **said) == [4, 4]
    assert columns(**said) == [0, 0]


def test_the_base_model_is_not_told() -> None:
    kwargs = {"input_ids": LEFT, "prompt_length": 3, "prompt_mask": LEFT, "labels": LEFT}
    given_ends(kwargs, None, 2, 0, 5)
    assert sorted(kwargs) == ["input_ids", "labels"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prompt_mask": LEFT[:1]}, "prompt_mask was given 1 rows for a batch of 2 rows"),
        ({"prompt_length": [1, 2, 3]}, "prompt_length was given 3 numbers for a batch of 2 rows"),
        ({"placed": torch.tensor([3])}, r"routed_at\(\) was given 1 positions for a batch of 2 rows"),
    ],
)
def test_as_many_ends_as_rows_are_needed(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ends(**said)
