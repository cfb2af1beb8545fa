"""A run is continued through the chat template that it was begun with, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from elder.chat import chat_of
from elder.errors import AdapterError
from elder.pipelines.run.spec import RunSpec, WorkerParts
from elder.runtime import LocalRuntime
from tests.elder.chat_templates import TEMPLATES, chat_tokenizer
from tests.pipelines.fakes import FakeEditor, FakeKit, StoreAt, make_config, make_edits
from tests.pipelines.train_fakes import FakeTrainingKit


def editor_with(job: RunSpec, mode: str, system: str | None = None) -> FakeEditor:
    base = FakeKit().base(job, LocalRuntime("cpu"))
    return FakeEditor(replace(base, chat=chat_of(chat_tokenizer(TEMPLATES["ChatML"]), mode, system)), 2, 0)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "made with plain prompts, this run has the chat template and the system message 'Be brief.'"),
        ({"chat": {"system": None}}, "made with the chat template, this run has"),
        (
            {"chat": {"system": "Be brief.", "plain": True}},
            "and the system message 'Be brief.', and plain prompts too, ",
        ),
        ({"chat": {"system": "Be brief."}}, ""),
    ],
)
def test_a_run_goes_on_as_it_was_begun(tmp_path: Path, made: dict[str, object], message: str) -> None:
    job = RunSpec(make_config(), make_edits(2), StoreAt(str(tmp_path / "store")))
    before, now = editor_with(job, "off"), editor_with(job, "on", "Be brief.")
    FakeKit().save(tmp_path, before, {})
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **made}))
    if not message:
        WorkerParts().restore(tmp_path, now)  # type: ignore[arg-type]
        return
    with pytest.raises(AdapterError, match=message):
        WorkerParts().restore(tmp_path, now)  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [{}, {"chat": None}, {"chat": {"system": None, "template": "a" * 64}}])
def test_so_does_a_training(tmp_path: Path, made: dict[str, object]) -> None:
    """Of a training that wrote nothing down about it nothing is asked."""
    job, kit = RunSpec(make_config(), make_edits(2), StoreAt(str(tmp_path / "store"))), FakeTrainingKit()
    base = replace(kit.base(job, LocalRuntime("cpu")), chat=chat_of(chat_tokenizer(TEMPLATES["ChatML"]), "on"))
    editor = kit.editor(job, base)
    kit.save(tmp_path, editor, made)
    if not made:
        kit.restore(tmp_path, editor)
        return
    with pytest.raises(
        AdapterError, match=r"the training was begun on (plain prompts|the chat template a{12}), it has the"
    ):
        kit.restore(tmp_path, editor)
