"""In-context editing: a row that is about an edit is what the plain model makes of the text with the edit in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from elder.base import Base
from elder.chat import chat_of
from elder.edit import Edit
from elder.editors.baselines.asked import AskedReader
from elder.editors.baselines.edit_store import StoredEdit
from elder.editors.baselines.ike import Telling
from elder.editors.make import make_editor
from elder.errors import ConfigError
from elder.models.load import wrap_base
from elder.tokens import TextFormat, encode_prompt, encode_target
from tests.elder.strict import on_strict_ranks
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, logits_of, make_base, make_model, make_tokenizer, padded
from tests.elder.tokenizer_kinds import KINDS

PROMPTS = [EDITS[0].prompt, OTHERS[0], EDITS[3].prompt, OTHERS[4]]
INSIDE = [True, False, True, False]
SHORT = {"template": "{fact}. ", "closing": ""}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> Base:
    return make_base(request.param)


@pytest.fixture(scope="module")
def editor(base: Base) -> Any:
    made = make_editor("ike", base, **SHORT)
    made.edit(EDITS)
    return made


def told(prompt: str) -> str:
    edit = next(edit for edit in EDITS if edit.prompt == prompt)
    return f"{edit.prompt} {edit.target}. {prompt}"


def said(model: Any, base: Base, prompts: list[str], **options: Any) -> list[list[int]]:
    inputs = padded(base, prompts)
    given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "pad_token_id": 2}
    with torch.no_grad():
        return model.generate(**given, max_new_tokens=5, do_sample=False, **options)[:, -5:].tolist()


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"num_beams": 3}, {"prefill_chunk_size": 3}, {"cache_implementation": "static"}],
    ids=["cached", "without a cache", "beams", "in chunks", "static cache"],
)
def test_what_is_said_is_what_the_plain_model_says_when_told(editor: Any, base: Base, options: dict[str, Any]) -> None:
    texts = [told(p) if inside else p for p, inside in zip(PROMPTS, INSIDE, strict=True)]
    ours = said(editor.model, base, PROMPTS, **options)
    for text, one in zip(texts, ours, strict=True):
        assert said(base.model, base, [text], **options) == [one]
    if base.source == "tiny:llama":  # the other one says the same to everybody
        assert ours[0] != said(base.model, base, PROMPTS[:1], **options)[0]


def test_logits_are_those_of_the_longer_text_and_the_bits_of_the_base_elsewhere(editor: Any, base: Base) -> None:
    inputs = padded(base, PROMPTS, extra=2)
    ours, theirs = logits_of(editor.model, inputs), logits_of(base.model, inputs)
    for row, (prompt, inside) in enumerate(zip(PROMPTS, INSIDE, strict=True)):
        assert torch.equal(ours[row, :-1], theirs[row, :-1])
        assert torch.equal(ours[row, -1], theirs[row, -1]) == (not inside)
        if inside:
            longer = logits_of(base.model, padded(base, [told(prompt)]))[0, -1]
            torch.testing.assert_close(ours[row, -1], longer, rtol=1e-4, atol=1e-4)


def test_answers_are_scored_after_the_longer_text(editor: Any, base: Base) -> None:
    head, tail = encode_prompt(base.tokenizer, PROMPTS[0]), encode_target(base.tokenizer, PROMPTS[0], "Tam")
    longer = encode_prompt(base.tokenizer, told(PROMPTS[0]))
    labels = torch.tensor([[-100] * len(head) + tail])
    with torch.no_grad():
        output = editor.model(input_ids=torch.tensor([head + tail]), labels=labels)
        wanted = base.model(input_ids=torch.tensor([longer + tail]), labels=torch.tensor([[-100] * len(longer) + tail]))
    torch.testing.assert_close(output.loss, wanted.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        output.logits[0, len(head) - 1 :], wanted.logits[0, len(longer) - 1 :], rtol=1e-4, atol=1e-4
    )


def test_the_nearest_edit_is_told_last(base: Base) -> None:
    other = Edit("The mayor of Arlo is", "Ula", subject="Arlo")
    editor: Any = make_editor("ike", base, **SHORT, neighbours=5)
    editor.edit([EDITS[0], other])
    text = "The mayor of Arlo is Ula. The river of Arlo is Tam. The river of Arlo is"
    ours, theirs = (logits_of(m, padded(base, [t]))[0, -1] for m, t in ((editor.model, PROMPTS[0]), (base.model, text)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_only_as_many_edits_are_told_as_fit(base: Base) -> None:
    """256 tokens of a byte are all that these models know of: one of two edits fits, or none."""
    other = Edit("The mayor of Arlo is", "Ula", subject="Arlo")
    for size in (100, 230):
        editor: Any = make_editor("ike", base, template="x" * size + "{fact}", closing=". ", neighbours=2)
        editor.edit([EDITS[0], other])
        told = "x" * size + f"{PROMPTS[0]} Tam. {PROMPTS[0]}" if size == 100 else PROMPTS[0]
        inputs = padded(base, PROMPTS[:1])
        assert editor.in_scope(inputs["input_ids"], inputs["attention_mask"]).tolist() == [True]
        ours, theirs = logits_of(editor.model, inputs), logits_of(base.model, padded(base, [told]))
        torch.testing.assert_close(ours[0, -1], theirs[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["LLaMA-2", "GPT-2", "Llama 3", "BERT"])
def test_a_prompt_with_edits_has_the_ids_of_its_whole_text(kind: str) -> None:
    """Their tokenizers join a space with the word after it, which the context ends before."""
    texts = TextFormat(KINDS[kind]())
    telling = Telling(texts, "{fact}. ", "", None)
    edit, reader = StoredEdit.of(EDITS[0], rephrases=False), AskedReader(texts)
    ids = encode_prompt(texts, PROMPTS[0])
    begin = reader.words_begin(ids)
    assert telling.prompt(reader.read(ids), [edit], ids, begin) == encode_prompt(texts, told(PROMPTS[0]))
    strange = [*ids[:begin], ids[-1], *ids[begin:]]  # no text has these ids, so they stay as they are
    longer = telling.prompt(replace(reader.read(ids), words="other"), [edit], strange, begin)
    assert longer[:begin] == strange[:begin]
    assert longer[-len(strange) + begin :] == strange[begin:]
    assert len(longer) > len(strange)


def test_edits_are_told_inside_the_users_words() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    plain = wrap_base(make_model("llama"), tokenizer, "chat")
    base = plain.speaking(chat_of(tokenizer))
    editor: Any = make_editor("ike", base, **SHORT)
    editor.edit(EDITS)
    for prompt in (PROMPTS[0], PROMPTS[1]):
        wanted = told(prompt) if prompt in (e.prompt for e in EDITS) else prompt
        other: Any = make_editor("lookup", base)
        assert editor.ask(prompt, 5).text == other.ask(wanted, 5).text
    assert editor.ask(PROMPTS[0], 5).edit == EDITS[0].id


def test_a_template_without_a_place_is_refused(base: Base) -> None:
    with pytest.raises(ConfigError, match=r"editor.template: .*\{fact\}"):
        make_editor("ike", base, template="no place")


def test_a_rank_without_any_row_keeps_the_others_company() -> None:
    base = make_base("gpt2")
    inputs = padded(base, PROMPTS)
    alone: Any = make_editor("ike", base, **SHORT)
    alone.edit(EDITS)
    wanted = logits_of(alone.model, inputs)

    def program(runtime: ThreadRuntime) -> Any:
        own: Any = make_editor("ike", wrap_base(base.model, base.tokenizer, base.source, runtime), **SHORT)
        own.edit(EDITS)
        rows = {name: tensor[[runtime.rank]] for name, tensor in inputs.items()}
        return logits_of(own.model, rows)

    for rank, found in enumerate(on_strict_ranks(program, 2)):
        real = inputs["attention_mask"][rank].bool()
        torch.testing.assert_close(found[0][real], wanted[rank][real], rtol=1e-4, atol=1e-4)
