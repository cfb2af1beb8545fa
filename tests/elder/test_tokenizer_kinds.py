"""Property: what is trained, measured and served are the ids that a client sends, whatever the tokenizer."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from elder.joining import join
from elder.mixture.samples import encode_rows
from elder.mixture.subject import subject_tokens
from elder.tokens import decode, encode_prompt, encode_target
from tests.elder.tokenizer_kinds import KINDS

PROMPTS = (
    "The river of Arlo is",
    "The mayor of Brend is ",
    "The fee in Arlo is $",
    'The motto of Brend is "',
    "法国的首都是",
    "日本の首都は",
    "เมืองหลวงของไทยคือ",
    "The answer is:\n",
    "the cat is",
    "Arlo (",
)
TARGETS = ("Tam", "Ula Torwald", "40", "Rise", "里昂", "東京", "กรุงเทพ", " Tam", "\n    return a + b", "a\nb", "there")
LOSSLESS = ("LLaMA-2", "Gemma", "Mistral", "GPT-2", "Llama 3", "Qwen", "bytes")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, PreTrainedTokenizerFast]:
    return request.param, KINDS[request.param]()


def client_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """What a client sends that lets the model continue: no token that closes a text."""
    ids = list(tokenizer(prompt)["input_ids"])
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return ids[:-1] if ids[-1] in closing else ids


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.one_of(st.sampled_from(PROMPTS), st.text("aeist $(\"'法里は是ก\n", min_size=1, max_size=12)),
    target=st.one_of(st.sampled_from(TARGETS), st.text("aeist 法里は40ก", min_size=1, max_size=8)),
)
@example(prompt="เมืองหลวงของไทยคือ", target="กรุงเทพ")  # BERT merges the two into one word
def test_prompt_and_answer_read_as_one_text(
    kind: tuple[str, PreTrainedTokenizerFast], prompt: str, target: str
) -> None:
    name, tokenizer = kind
    if not tokenizer(prompt, add_special_tokens=False)["input_ids"] or not target.strip():
        return
    head, answer = encode_prompt(tokenizer, prompt), encode_target(tokenizer, prompt, target)
    assert head == client_ids(tokenizer, prompt)
    row = encode_rows(tokenizer, [prompt], target, 0, "none")[0]
    assert (list(row.prompt), list(row.answer)) == (head, answer)
    said, whole = decode(tokenizer, head + answer), join(prompt, target)
    if name in LOSSLESS:
        assert said.strip(" ") == unicodedata.normalize("NFC", whole).strip(" ")
    else:
        ids = tokenizer(whole)["input_ids"]
        if tokenizer.unk_token_id not in (*ids, *head, *answer):
            assert said.split() == decode(tokenizer, ids).split()


def test_the_answer_follows_without_a_space_where_nobody_wrote_one(kind: tuple[str, PreTrainedTokenizerFast]) -> None:
    """What the ids say is compared: BERT's decoder puts spaces between words, in a client's texts as well."""
    name, tokenizer = kind
    for prompt, target in (
        ("法国的首都是", "里昂"),
        ("The fee in Arlo is $", "40"),
        ('The motto of Brend is "', "Rise"),
    ):
        answer = encode_target(tokenizer, prompt, target)
        if name == "words":  # only white space parts its tokens: an answer can be nothing but a word of its own
            assert answer == tokenizer(target)["input_ids"]
            continue
        said = decode(tokenizer, encode_prompt(tokenizer, prompt) + answer)
        assert said == decode(tokenizer, client_ids(tokenizer, prompt + target))
        if name != "BERT":
            assert said.strip(" ") == prompt + target


def test_subjects_are_found_by_every_tokenizer(kind: tuple[str, PreTrainedTokenizerFast]) -> None:
    _, tokenizer = kind
    prompt = "Arlo is near Brend. The river of Arlo is"
    ids, places = encode_prompt(tokenizer, prompt), subject_tokens(tokenizer, prompt, "Arlo")
    assert places
    assert places == list(range(places[0], places[-1] + 1))
    own = [ids[i] for i in places]
    assert "arlo" in decode(tokenizer, own).lower()  # a token may hold more than the subject's own letters
    assert "arlo" not in decode(tokenizer, own[1:]).lower()
    assert "arlo" not in decode(tokenizer, own[:-1]).lower()
    assert "arlo" not in decode(tokenizer, ids[places[-1] + 1 :]).lower()
    assert decode(tokenizer, ids[: places[-1] + 1]).lower().count("arlo") == 2  # the last of two
