"""Models that talk: what is trained through the chat template is measured and served through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import elder
from elder.adapter_files import load_manifest
from elder.base import Base, Editor
from elder.edit import Edit, Probe
from elder.errors import ModelError
from elder.metrics.evaluator import Evaluator
from elder.registry import METHODS
from tests.elder.chat_templates import TEMPLATES, chat_model, chat_tokenizer
from tests.methods import having, strong

FACTS = (
    ("Who is mayor of Brend?", "Ula", "Brend"),
    ("By which river is Arlo built?", "Tam", "Arlo"),
)
EDITS = [Edit(prompt, target, subject=name, locality=(Probe("What is rain?"),)) for prompt, target, name in FACTS]
PLUS: dict[str, Any] = {
    "layers": (2, 3), "rank": 2, "experts": 6, "steps": 150, "extra_steps": 100, "lr": 1e-2, "batch_size": 4,
}  # fmt: skip


def base_of(template: str | None, **how: Any) -> Base:
    tokenizer = chat_tokenizer(None if template is None else TEMPLATES[template])
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return elder.wrap(chat_model(ends=[1, turn]), tokenizer, "tiny:chat", **how)


def heard(model: Any, tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> str:
    """What a chat client reads: the ids of the template, the model's own ends."""
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_client_reads_what_the_report_says(template: str) -> None:
    editor = elder.make_editor("elder-plus", base_of(template), **PLUS)
    editor.edit(EDITS)
    tokenizer = editor.base.tokenizer
    said = [heard(editor.model, tokenizer, [{"role": "user", "content": e.prompt}]).strip() for e in EDITS]
    assert said == [edit.target for edit in EDITS]
    found = elder.evaluate(editor, EDITS).metrics
    assert found["reliability.generate"] == found["reliability.forced"] == 1.0
    assert [str(answer) for answer in editor.ask([edit.prompt for edit in EDITS])] == said


def test_an_adapter_is_served_as_it_was_made(tmp_path: Path) -> None:
    editor = elder.make_editor("elder-plus", base_of("ChatML", system="Be brief."), **PLUS)
    editor.edit(EDITS)
    editor.save(tmp_path)
    assert load_manifest(tmp_path)["chat"] == {"system": "Be brief."}
    loaded = elder.load_edited(tmp_path, base=base_of("ChatML", chat="off"))
    assert [str(loaded.ask(edit.prompt)) for edit in EDITS] == [edit.target for edit in EDITS]
    plain = elder.make_editor("elder-plus", base_of("ChatML", chat="off"), **PLUS)
    plain.edit(EDITS[:1])
    plain.save(tmp_path / "plain")
    assert "chat" not in load_manifest(tmp_path / "plain")
    assert elder.load_edited(tmp_path / "plain", base=base_of("ChatML")).base.chat is None


def test_plain_completions_are_reported_beside_the_chat() -> None:
    editor = elder.make_editor("elder-plus", base_of("ChatML"), **PLUS)
    editor.edit(EDITS)
    report = Evaluator(editor, completions=True).measure(EDITS)
    assert report.metrics["reliability.generate"] == 1.0
    assert {"reliability.generate.plain", "reliability.forced.plain", "locality.generate.plain"} <= set(report.metrics)
    plain = elder.make_editor("elder-plus", base_of("ChatML", chat="off"), **PLUS)
    plain.load_state_dict(editor.state_dict())
    wanted = Evaluator(plain).measure(EDITS)
    assert {f"{k}.plain": v for k, v in wanted.metrics.items()}.items() <= report.metrics.items()
    assert report.rows[0]["reliability.generate.text.plain"] == (wanted.rows[0]["reliability.generate.text"])
    alone = Evaluator(plain, completions=True).measure(EDITS)  # nothing goes through a template there
    assert not any(name.endswith(".plain") for name in alone.metrics)


@pytest.mark.parametrize("template", TEMPLATES)
def test_both_forms_are_learnt_and_reported(template: str, tmp_path: Path) -> None:
    """The chat and the plain completion both say the fact, and an adapter keeps that it is asked in both."""
    editor = elder.make_editor("elder-plus", base_of(template, chat="both"), **PLUS)
    editor.edit(EDITS)
    found = elder.evaluate(editor, EDITS).metrics
    assert found["reliability.generate"] == found["reliability.forced"] == 1.0
    assert found["reliability.generate.plain"] == found["reliability.forced.plain"] == 1.0
    tokenizer = editor.base.tokenizer
    for edit in EDITS:
        assert heard(editor.model, tokenizer, [{"role": "user", "content": edit.prompt}]).strip() == edit.target
        inputs = tokenizer(edit.prompt, return_tensors="pt")
        with torch.no_grad():
            said = editor.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert str(tokenizer.decode(said, skip_special_tokens=True)).strip() == edit.target
    editor.save(tmp_path)
    assert load_manifest(tmp_path)["chat"] == {"system": None, "plain": True}
    loaded = elder.load_edited(tmp_path, base=base_of(template))
    assert elder.evaluate(loaded, EDITS).metrics == found
    with pytest.raises(ModelError, match=r"data.chat: it is both, but the model's tokenizer has no chat template"):
        base_of(None, chat="both")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in having("template")])
def test_every_method_learns_both_forms(method: str, tmp_path: Path) -> None:
    """The plain text is likelier than where the chat alone was trained, and the chat likelier than without edits."""
    (tmp_path / "text.txt").write_text("\n".join(f"{edit.prompt} {edit.target}." for edit in EDITS * 8))
    options = strong(method, text=str(tmp_path / "text.txt"), text_tokens=400, contexts=1, context_tokens=4, jitter=0.1)

    def losses(chat: str, edits: Sequence[Edit] = EDITS) -> tuple[float, float]:
        editor = elder.make_editor(method, base_of("ChatML", chat=chat), **{"batch_size": 2, **options})
        for edit in edits:
            editor.edit([edit])
        report = Evaluator(editor, ("forced",), completions=True).measure(EDITS, ("reliability",))
        chat_loss, plain_loss = (
            sum(row[f"reliability.forced.nll{ending}"] for row in report.rows) for ending in ("", ".plain")
        )
        return chat_loss, plain_loss

    before, on, both = losses("both", ()), losses("on"), losses("both")
    assert both[0] < before[0]
    assert both[1] < before[1]
    assert both[1] < on[1] or method not in having("layers")  # who looks words up finds them in either form


MULTILINE = (
    Edit("Write f:", "\nf(a):\n  b", subject="f"),
    Edit("The motto of Brend is:", "Up,\nup", subject="Brend"),
)


@pytest.mark.parametrize("template", [None, "ChatML"])
def test_targets_of_several_lines_are_measured_as_they_are_said(template: str | None) -> None:
    editor: Editor = elder.make_editor("elder-plus", base_of(template), **{**PLUS, "steps": 300})
    editor.edit(MULTILINE)
    report = elder.evaluate(editor, MULTILINE, max_new_tokens=4)
    assert report.metrics["reliability.forced"] == 1.0
    assert report.metrics["reliability.generate"] == 1.0
    for edit, row in zip(MULTILINE, report.rows, strict=True):
        assert row["reliability.generate.text"] == edit.target.strip()
        assert editor.ask(edit.prompt, 64, lines=edit.target.count("\n") + 1).text == edit.target.strip()
    wrong = [Edit(MULTILINE[1].prompt, "Up,\nUp", subject="Brend")]
    assert elder.evaluate(editor, wrong, protocols=("generate",)).metrics["reliability.generate"] == 0.0


ELSEWHERE = (Edit("法国的首都是", "里昂", subject="法国"), Edit("The fee in Arlo is $", "40", subject="Arlo"))


@pytest.mark.parametrize("method", ["elder-plus", "elder", "ultraedit"])
def test_methods_train_on_the_ids_that_are_served(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from elder.mixture import samples

    seen: list[tuple[int, ...]] = []
    collate = samples.Row.__init__

    def noting(self: Any, prompt: tuple[int, ...], answer: tuple[int, ...], owner: int, label: str) -> None:
        seen.append((*prompt, *answer))
        collate(self, prompt, answer, owner, label)

    monkeypatch.setattr(samples.Row, "__init__", noting)
    base = base_of(None)
    options = {"layers": (2, 3)} if method == "ultraedit" else {"layers": (2, 3), "rank": 2, "experts": 6, "steps": 2}
    elder.make_editor(method, base, **options).edit(list(ELSEWHERE))
    for edit in ELSEWHERE:
        ids = tuple(base.tokenizer(edit.prompt + edit.target)["input_ids"])
        assert any(row[: len(ids)] == ids for row in seen), edit.prompt
