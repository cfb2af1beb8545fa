"""Prompts and answers through a chat template are the ids that a chat client sends."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from elder.chat import Chat, chat_of
from elder.edit import Edit
from elder.errors import ConfigError, ModelError
from elder.mixture.samples import encode_rows
from elder.mixture.subject import subject_tokens
from elder.targets.requests import prompt_row
from elder.tokens import TextFormat, decode, encode_prompt, encode_target
from tests.elder.chat_templates import TEMPLATES, chat_tokenizer
from tests.fuzz.judge import memory_mb

QUESTION = "Who is mayor of Brend?"
USER = [{"role": "user", "content": QUESTION}]


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return chat_tokenizer(TEMPLATES[request.param])


def sent(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int]:
    """The ids that a client sends for a conversation."""
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def test_a_prompt_is_what_a_chat_client_sends(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = TextFormat(tokenizer, chat_of(tokenizer))
    ids = encode_prompt(texts, QUESTION)
    assert ids == sent(tokenizer, USER)
    assert ids.count(0) <= 1  # never two BOS


def test_an_answer_continues_the_conversation_as_the_template_writes_it(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = TextFormat(tokenizer, chat_of(tokenizer))
    row = encode_rows(texts, [QUESTION], "Ula", 0, "eos")[0]
    whole = list(tokenizer.apply_chat_template([*USER, {"role": "assistant", "content": "Ula"}], return_dict=False))
    assert [*row.prompt, *row.answer] == whole[: len(row.prompt) + len(row.answer)]
    assert decode(tokenizer, row.answer).strip().endswith("Ula")


def test_a_prompt_that_is_rendered_already_is_not_rendered_again(tokenizer: PreTrainedTokenizerFast) -> None:
    rendered = tokenizer.apply_chat_template(USER, add_generation_prompt=True, tokenize=False)
    for chat in (chat_of(tokenizer), None):
        texts = TextFormat(tokenizer, chat)
        assert encode_prompt(texts, rendered) == sent(tokenizer, USER)
        assert encode_prompt(texts, rendered.rstrip()) == sent(tokenizer, USER)  # as published layouts leave it
        lead = chat_of(tokenizer).lead
        assert decode(tokenizer, encode_target(texts, rendered, "Ula")) == decode(
            tokenizer, tokenizer(f"{lead}Ula", add_special_tokens=False)["input_ids"]
        )


def test_a_context_goes_into_the_words_of_the_user(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = TextFormat(tokenizer, chat_of(tokenizer))
    wanted = sent(tokenizer, [{"role": "user", "content": f"It rained. {QUESTION}"}])
    assert encode_prompt(texts, texts.within("It rained. {}", QUESTION)) == wanted
    rendered = tokenizer.apply_chat_template(USER, add_generation_prompt=True, tokenize=False)
    assert encode_prompt(texts, texts.within("It rained. {}", rendered)) == wanted


def test_subjects_are_found_in_the_words_of_the_user(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = TextFormat(tokenizer, chat_of(tokenizer))
    ids = encode_prompt(texts, QUESTION)
    assert decode(tokenizer, [ids[i] for i in subject_tokens(texts, QUESTION, "Brend")]) == "Brend"
    row = prompt_row(texts, 0, Edit(QUESTION, "Ula", subject="Brend"), "user. {}")
    assert decode(tokenizer, row.ids).endswith("mayor of Brend")
    assert subject_tokens(texts, QUESTION, "user") == []  # only the template says it


def test_a_system_message_is_sent_where_the_template_knows_one() -> None:
    tokenizer = chat_tokenizer(TEMPLATES["ChatML"])
    texts = TextFormat(tokenizer, chat_of(tokenizer, "auto", "Be brief."))
    assert encode_prompt(texts, QUESTION) == sent(tokenizer, [{"role": "system", "content": "Be brief."}, *USER])
    with pytest.raises(ModelError, match=r"data\.system.*System role not supported"):
        chat_of(chat_tokenizer(TEMPLATES["Gemma"]), "auto", "Be brief.")


def test_what_a_config_may_say_about_the_template() -> None:
    plain, talking = chat_tokenizer(None), chat_tokenizer(TEMPLATES["ChatML"])
    assert chat_of(plain) is None
    assert chat_of(talking, "off") is None
    assert isinstance(chat_of(talking), Chat)
    assert isinstance(chat_of(talking, "on"), Chat)
    with pytest.raises(ModelError, match="has no chat template"):
        chat_of(plain, "on")
    with pytest.raises(ModelError, match=r"data\.system"):
        chat_of(talking, "off", "Be brief.")
    with pytest.raises(ConfigError, match="auto, on, off"):
        chat_of(talking, "yes")
    with pytest.raises(ModelError, match="leaves the user's words out"):
        chat_of(chat_tokenizer("hello"))
    with pytest.raises(ModelError, match="refuses it"):
        chat_of(chat_tokenizer("{{ messages[0].content.nothing() }}"))


def test_an_answer_ends_where_generation_stops() -> None:
    tokenizer = chat_tokenizer(TEMPLATES["ChatML"])
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert TextFormat(tokenizer, chat_of(tokenizer)).end_id == turn
    assert TextFormat(tokenizer).end_id == tokenizer.eos_token_id
    assert TextFormat(tokenizer, None, frozenset({turn})).end_id == turn  # EOS would not stop the model
    assert TextFormat(tokenizer, None, frozenset({1, turn})).end_id == 1
    assert TextFormat(tokenizer, chat_of(tokenizer)).stops == {turn}


def test_lengths_are_those_of_the_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    for chat in (None, chat_of(tokenizer)):
        texts = TextFormat(tokenizer, chat)
        pairs = [("The river of Arlo is", "Tam"), (QUESTION, None), ("<s>The fee is $", "40")]
        wanted = [len(encode_prompt(texts, p)) + (len(encode_target(texts, p, a)) if a else 0) + 1 for p, a in pairs]
        assert texts.lengths(pairs) == wanted


@pytest.mark.parametrize(
    ("loops", "seconds", "why"),
    [
        (
            "{% for _ in range(2000) %}{{ 'x' * 1000 }}{% endfor %}",
            20.0,
            "characters around a prompt, at most 1,000,000",
        ),
        ("{{ 'x' * 99999999999 }}", 20.0, "too much memory"),
        ("{{ '%99999999999d' % 1 }}", 20.0, "too much memory"),
        ("{{ 'x'.ljust(99999999999) }}", 20.0, "too much memory"),
        (
            "{% set ns = namespace(x='xxxxxxxx') %}{% for _ in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            20.0,
            "too much memory",
        ),
        ("{{ 9**9**9 }}", 20.0, "a power"),
        ("{% for _ in range(40) %}{% for _ in range(50000) %}{% endfor %}{% endfor %}", 0.001, "has not rendered"),
    ],
    ids=["enormous", "product", "format", "method", "doubled", "power", "slow"],
)
def test_a_template_without_measure_is_refused(loops: str, seconds: float, why: str) -> None:
    tokenizer = chat_tokenizer(f"{loops}{{{{ messages[0]['content'] }}}}")
    before = memory_mb()
    with pytest.raises(ModelError, match=why):
        Chat(tokenizer).check(seconds)
    assert memory_mb() - before < 500


def test_a_power_in_the_words_of_a_template_is_no_power() -> None:
    Chat(chat_tokenizer("**Note** {{ '2**3' }} {# 9**9 #} {{ messages[0]['content'] }}")).check()
