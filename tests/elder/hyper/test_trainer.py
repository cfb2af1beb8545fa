"""Meta-training on tiny models: it learns, resumes to the bit, saves and loads, and ranks agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from elder.adapter import load_adapter
from elder.adapter_files import load_manifest
from elder.base import Base
from elder.edit import Edit, Probe
from elder.editors.make import make_editor
from elder.editors.weights.rollback import rolled_back
from elder.errors import AdapterError, ConfigError, DataError, SolverError
from elder.hyper.fact_checks import check_facts
from elder.hyper.facts import block_rows
from elder.hyper.meta import changes_of
from elder.hyper.trained import load_trained
from elder.hyper.trainer import MetaTrainer, make_trainer
from elder.models.load import wrap_base
from elder.registry import make_training
from elder.state import state_digest
from elder.tokens import encode_prompt
from tests.elder.chat_templates import TEMPLATES, chat_model, chat_tokenizer
from tests.elder.tiny import EDITS, OTHERS, logits_of, make_base, on_ranks, padded

FACTS = [
    replace(edit, locality=(Probe(OTHERS[i], "x" if i % 2 else None), Probe(OTHERS[-i - 1])))
    for i, edit in enumerate(EDITS)
]
OPTIONS: dict[str, dict[str, Any]] = {
    "mend": {"rank": 16, "meta_lr": 1e-3, "lr": 1e-2, "edit_coef": 1.0, "clip": 100.0, "accumulate": 2},
    "malmen": {"rank": 16, "meta_lr": 1e-3, "lr": 1e-3, "scalar_lr": 0.1},
}


@pytest.fixture(params=("mend", "malmen"))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def trainer_of(kind: str, base: Base, **options: Any) -> MetaTrainer:
    return make_trainer(kind, base, make_training(kind, {**OPTIONS[kind], "layers": [1, 3], **options}))


def test_the_meta_loss_falls_and_the_base_is_untouched(base: Base, kind: str) -> None:
    digest, trainer = base.digest, trainer_of(kind, base)
    inputs = padded(base, OTHERS)
    plain = logits_of(base.model, inputs)
    before = trainer.validate(FACTS)
    figures = [trainer.step(FACTS) for _ in range(30)]
    after = trainer.validate(FACTS)
    assert after["loss"] < before["loss"] - 0.1
    assert [f["gradient_norm"] > 0 for f in figures[:4]] == ([False, True] * 2 if kind == "mend" else [True] * 4)
    assert trainer.steps_done == 30
    assert torch.equal(logits_of(trainer.model, inputs), plain)  # invariant 31: to the bit
    assert trainer.base.digest == digest
    assert all(p.grad is None for p in base.model.parameters())
    assert set(after) == {"ES", "GS", "LS", "agreement", "loss", "edit_loss", "locality_loss"}


def test_a_prompt_is_drawn_like_its_rephrases_when_asked_for(base: Base) -> None:
    """And only in training: validation and the edit itself are as they were."""
    fact = replace(FACTS[0], rephrases=("Arlo lies by",))
    draws = torch.Generator().manual_seed(0)

    def seen(generator: torch.Generator | None, own_prompt: bool) -> set[tuple[int, ...]]:
        rows = [block_rows(base.tokenizer, [fact], "none", generator, own_prompt) for _ in range(20)]
        return {row.prompt for one in rows for row in one.equivalents}

    prompt, rephrase = (tuple(encode_prompt(base.tokenizer, text)) for text in (fact.prompt, "Arlo lies by"))
    assert seen(draws, False) == {rephrase}
    assert seen(draws, True) == {prompt, rephrase}
    assert seen(None, True) == {rephrase}
    plain, own = (trainer_of("malmen", base, own_prompt=o) for o in (False, True))
    figures = [[trainer.step([fact])["edit_loss"] for _ in range(4)] for trainer in (plain, own)]
    assert figures[0] != figures[1]


def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(base: Base, kind: str) -> None:
    straight, first, second = (trainer_of(kind, base) for _ in range(3))
    for block in (FACTS[:3], FACTS[3:], FACTS[1:4]):
        straight.step(block)
        first.step(block)
    first.validate(FACTS)
    second.load_state_dict(first.state_dict())
    assert state_digest(second.state_dict()) == state_digest(straight.state_dict())
    for trainer in (straight, second):
        for block in (FACTS[2:], FACTS[:2]):
            trainer.step(block)
    assert state_digest(second.state_dict()) == state_digest(straight.state_dict())
    assert straight.validate(FACTS, 4) == second.validate(FACTS, 4)


def test_a_block_that_is_not_finite_leaves_everything_as_it_was(base: Base, kind: str) -> None:
    trainer, twin = trainer_of(kind, base), trainer_of(kind, base)
    for one in (trainer, twin):
        one.step(FACTS[:2])
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    rates = trainer.network.log_lr.data.clone()
    trainer.network.log_lr.data.fill_(1000.0)  # a rate of infinity
    with pytest.raises(SolverError, match="not finite"):
        trainer.step(FACTS[2:])
    trainer.network.log_lr.data.copy_(rates)
    after = trainer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(name.startswith("normaliser.") for name in before)
    assert trainer.step(FACTS[2:])["loss"] == twin.step(FACTS[2:])["loss"]
    assert state_digest(trainer.state_dict()) == state_digest(twin.state_dict())


def test_ranks_compute_the_gradient_of_one_process(base: Base, kind: str) -> None:
    def program(runtime: Any) -> Any:
        trainer = trainer_of(
            kind, wrap_base(base.model, base.tokenizer, base.source, runtime), accumulate=2, micro_batch=2
        )
        figures = trainer.step(FACTS[:5])
        grads = {name: p.grad.clone() for name, p in trainer.network.named_parameters()}
        return figures, grads, trainer.validate(FACTS), state_digest(trainer.state_dict())

    alone = on_ranks(program, 1)[0]
    ranks = on_ranks(program, 2)
    assert ranks[0][3] == ranks[1][3]
    for found in ranks:
        for name, gradient in alone[1].items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=name)
        assert found[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
        assert found[2] == pytest.approx(alone[2], rel=1e-5)


def test_the_gradient_through_the_model_is_that_of_finite_differences(base: Base, kind: str) -> None:
    """dL/d log_lr by running the whole block again with another learning rate, the normaliser held fixed."""
    options: dict[str, Any] = {"lr": 0.05, "accumulate": 5}
    trainer = trainer_of(kind, base, **options)
    one = [replace(f, rephrases=f.rephrases[:1], locality=f.locality[:1]) for f in FACTS[:3]]  # nothing to draw
    trainer.step(one)
    found = {n: p.grad.clone() for n, p in trainer.network.named_parameters() if n.startswith("log_")}

    def loss(name: str, by: float) -> float:
        parameter = dict(trainer.network.named_parameters())[name]
        with torch.no_grad():
            parameter[1] += by
            value = trainer.validate(one)["loss"]
            parameter[1] -= by
        return value

    for name, gradient in found.items():
        slope = (loss(name, 0.05) - loss(name, -0.05)) / 0.1
        assert abs(slope) > 1e-4
        assert float(gradient[1]) == pytest.approx(slope, rel=2e-2), name


def chat_base(mode: str, system: str | None = None, template: str = "ChatML") -> Base:
    return wrap_base(chat_model(), chat_tokenizer(TEMPLATES[template]), "tiny:chat", chat=mode, system=system)


def test_a_trained_editor_is_used_through_the_template_of_its_training(kind: str, tmp_path: Path) -> None:
    trained_on = chat_base("on", "Be brief.")
    trainer = trainer_of(kind, trained_on)
    trainer.save(tmp_path)
    chat = load_manifest(tmp_path)["chat"]
    assert (chat["system"], len(chat["template"])) == ("Be brief.", 64)
    options = {"trained": str(tmp_path), "batch_size": 2}
    make_editor(kind, chat_base("on", "Be brief."), **options).edit(EDITS[:2])
    for other, now in (
        (chat_base("off"), "this run has plain prompts"),
        (chat_base("auto"), f"this run has the chat template {chat['template'][:12]};"),
        (chat_base("on", "Be kind."), "this run has .* and the system message 'Be kind.'"),
        (chat_base("both", "Be brief."), "'Be brief.', and plain prompts too"),
        (chat_base("on", "Be brief.", "Llama 3"), "this run has the chat template [0-9a-f]{12} and"),
    ):
        with pytest.raises(AdapterError, match=f"it was trained on the chat template {chat['template'][:12]}.*{now}"):
            make_editor(kind, other, **options)


def test_a_trained_editor_without_that_record_still_loads(kind: str, tmp_path: Path) -> None:
    trainer_of(kind, chat_base("off")).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest.pop("chat", "none") is None
    with pytest.raises(AdapterError, match="it was trained on plain prompts, this run has the chat template"):
        make_editor(kind, chat_base("on"), trained=str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for mode in ("off", "on"):
        make_editor(kind, chat_base(mode), trained=str(tmp_path), batch_size=2).edit(EDITS[:2])


def test_facts_are_trained_in_both_forms_where_that_is_asked_for() -> None:
    """Each row of a block stands there twice: as the chat, and as the plain text."""
    fact = replace(FACTS[0], locality=(Probe(OTHERS[0]),))
    chat, plain, both = (
        block_rows(chat_base(mode).texts, [fact, FACTS[1]], "eos", None) for mode in ("on", "off", "both")
    )
    for name in ("edits", "equivalents", "unrelated"):
        one, other, found = (getattr(rows, name) for rows in (chat, plain, both))
        assert found == [row for pair in zip(one, other, strict=True) for row in pair]
        assert not set(one) & set(other)


def test_what_is_trained_is_what_the_editor_uses(base: Base, kind: str, tmp_path: Path) -> None:
    trainer = trainer_of(kind, base)
    for _ in range(2):
        trainer.step(FACTS)
    trainer.save(tmp_path / "trained", {"note": 1})
    trained = load_trained(tmp_path / "trained")
    assert (trained.method, trained.steps, trained.options) == (kind, 2, trainer.options)
    editor = make_editor(kind, base, trained=str(tmp_path / "trained"), batch_size=len(EDITS))
    assert editor.options.layers == (1, 3)
    editor.edit(EDITS)
    rows = editor._rows(EDITS)
    applied = changes_of(trainer.network, trainer._factors(rows), base.runtime, 1024)
    for name, one in applied.items():
        torch.testing.assert_close(editor.deltas.of[name].dense, one.dense, rtol=1e-4, atol=1e-6)


def test_an_adapter_answers_without_the_trained_editor_and_continues_only_with_it(
    base: Base, kind: str, tmp_path: Path
) -> None:
    trainer = trainer_of(kind, base)
    trainer.step(FACTS)
    trainer.save(tmp_path / "trained")
    trainer.step(FACTS)
    trainer.step(FACTS)
    trainer.save(tmp_path / "other")
    editor = make_editor(kind, base, trained=str(tmp_path / "trained"), batch_size=3)
    editor.edit(EDITS[:3])
    editor.save(tmp_path / "adapter")
    (tmp_path / "trained").rename(tmp_path / "moved")
    loaded = load_adapter(tmp_path / "adapter", base)
    inputs = padded(base, OTHERS)
    assert torch.equal(logits_of(loaded.model, inputs), logits_of(editor.model, inputs))
    with pytest.raises(ConfigError, match=r"there is no directory .* can answer but not edit"):
        loaded.edit(EDITS[3:])
    with pytest.raises(AdapterError, match="another trained editor"):
        loaded.use_trained(tmp_path / "other")
    loaded.use_trained(tmp_path / "moved")
    loaded.edit(EDITS[3:])
    editor.edit(EDITS[3:])
    assert state_digest(loaded.state_dict()) == state_digest(editor.state_dict())
    earlier = rolled_back(loaded, 3)  # its trained network was handed over, not read from `options.trained`
    earlier.edit(EDITS[3:])
    assert state_digest(earlier.state_dict()) == state_digest(editor.state_dict())
    with pytest.raises(AdapterError, match="another trained editor"):
        make_editor(kind, base, trained=str(tmp_path / "other")).load_state_dict(editor.state_dict())
    with pytest.raises(AdapterError, match=r"is a trained-editor, no adapter"):
        load_adapter(tmp_path / "moved", base)
    with pytest.raises(AdapterError, match="not a trained editor"):
        load_trained(tmp_path / "adapter")


def test_wrong_trained_editors_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    base = make_base("llama")
    trainer_of(kind, base).save(tmp_path / "trained")
    where = str(tmp_path / "trained")
    with pytest.raises(ConfigError, match=r"train one with `elder train-editor CONFIG`"):
        make_editor(kind, base)
    with pytest.raises(AdapterError, match="it was trained on tiny:llama"):
        make_editor(kind, make_base("gpt2"), trained=where)
    with pytest.raises(AdapterError, match=f"it was trained for {kind}"):
        make_editor("mend" if kind == "malmen" else "malmen", base, trained=where)
    with pytest.raises(AdapterError, match=r"trained for blocks \[1, 3\], not \[2\]"):
        make_editor(kind, base, trained=where, layers=(2,))
    with (tmp_path / "trained" / "adapter.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(AdapterError, match="is damaged"):
        load_trained(where)


def test_states_of_other_options_and_facts_without_probes_are_refused(base: Base, kind: str) -> None:
    trainer = trainer_of(kind, base)
    before = state_digest(trainer.state_dict())
    with pytest.raises(AdapterError, match="has shape"):
        trainer.load_state_dict(trainer_of(kind, base, rank=3).state_dict())
    with pytest.raises(DataError, match="training needs a locality prompt"):
        trainer.step(EDITS[:2])
    with pytest.raises(DataError, match="training needs a rephrase"):
        check_facts([Edit("A", "B", locality=(Probe("C"),))])
    assert state_digest(trainer.state_dict()) == before
    with pytest.raises(ConfigError, match="'ultraedit' is not trained"):
        make_training("ultraedit", {})
