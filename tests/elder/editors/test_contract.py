"""What every method of the registry keeps, whatever it is: a new one is held to it on the day it gets its name.

A tiny Llama, six edits; options are those of `tests/methods.py`, with some others by their names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from elder.adapter import load_adapter
from elder.base import Base
from elder.edit import Edit
from elder.edited.model import EditedModel
from elder.editors.make import make_editor
from elder.errors import AdapterError, ConfigError, DataError, ElderError, ModelError
from elder.metrics.scoring import Pair, score
from elder.models.load import load_base, wrap_base
from elder.registry import METHODS, editor_class, make_options, options_class
from elder.state import state_digest
from elder.tokens import encode_prompt, encode_target, pad_id
from tests.elder.tiny import EDITS, OTHERS, logits_of, make_model, make_tokenizer, padded
from tests.methods import having, small

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {
    "batch_size": 2,
    "experts": 6,
    "parameters_per_edit": 0,
    "subject_threshold": 0.95,
    "answer_threshold": 0.95,
    "contexts": 1,
    "context_tokens": 8,  # of one byte; the first text begins with three of them
    "jitter": 0.1,
    "clamp": 10.0,
    "decay": 0.0,
    "stop": 0.05,
    "threshold": 5.0,
}
"""Taken for every option of such a name."""
PROMPTS = [*[edit.prompt for edit in EDITS], *OTHERS]
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model as a directory, and the text of the statistics beside it."""
    root = tmp_path_factory.mktemp("contract")
    make_model("llama").save_pretrained(root / "model")
    make_tokenizer().save_pretrained(root / "model")
    (root / "text.txt").write_text("\n".join([f"{e.prompt} {e.target}." for e in EDITS] + list(OTHERS)))
    return root


@pytest.fixture(scope="module")
def base(place: Path) -> Base:
    return load_base(str(place / "model"), device="cpu")


@pytest.fixture(scope="module")
def untouched(base: Base) -> Tensor:
    return logits_of(base.model, padded(base, PROMPTS))


@pytest.fixture(scope="module")
def make(place: Path, base: Base) -> Make:
    """An editor of a method, small; `on` is the base."""

    def build(name: str, on: Base = base, **options: Any) -> Any:
        return make_editor(name, on, **{**small(name, **SMALL, text=str(place / "text.txt")), **options})

    return build


@pytest.fixture(scope="module")
def edited(make: Make) -> Callable[[str], Any]:
    """An editor that has all six edits from one call. Shared: tests must not change it."""

    @cache
    def build(name: str) -> Any:
        editor = make(name)
        editor.receipt = editor.edit(EDITS)
        return editor

    return build


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def takes_several_blocks(name: str) -> bool:
    try:
        make_options(name, {"layers": (1, 2)})
    except ConfigError:
        return False
    return True


def answers(editor: Any) -> Tensor:
    return logits_of(editor.model, padded(editor.base, PROMPTS))


def target_nll(editor: Any, edit: Edit) -> tuple[float, float]:
    """Nats a token of the target behind the prompt: of the edited model, and of the base."""
    tokenizer, runtime = editor.base.tokenizer, editor.base.runtime
    prompt, target = encode_prompt(tokenizer, edit.prompt), encode_target(tokenizer, edit.prompt, edit.target)
    given = [Pair(tuple(prompt), tuple(target))], 4, runtime, pad_id(tokenizer)
    return score(editor.model, *given, editor.routed_at)[0].nll, score(editor.base.model, *given)[0].nll


# ---- what an edit does, and to whom --------------------------------------------------------------------------------


def test_an_edit_makes_its_target_likelier(make: Make, name: str) -> None:
    """In its own words; how far it carries is measured elsewhere. A random model believes nothing that it is told."""
    editor = make(name)
    editor.edit(EDITS[:1])
    now, before = target_nll(editor, EDITS[0])
    if name in having("template"):
        assert now != before
        return
    assert now < before - 0.05


def test_the_base_keeps_its_bytes_and_is_what_the_model_is_without_its_edits(
    edited: Callable[[str], Any], base: Base, untouched: Tensor, make: Make, name: str
) -> None:
    assert torch.equal(answers(make(name)), untouched)
    editor, prompts = edited(name), padded(base, PROMPTS)
    said = answers(editor)
    assert not torch.equal(said, untouched)
    with editor.disabled():
        assert torch.equal(answers(editor), untouched)
        with editor.disabled():
            pass
        assert torch.equal(answers(editor), untouched)
    assert torch.equal(answers(editor), said)
    assert torch.equal(logits_of(base.model, prompts), untouched)
    assert editor.base_digest() == base.digest
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_receipts_and_progress_tell_every_edit_in_order(make: Make, name: str) -> None:
    editor, told = make(name), []
    receipt = editor.edit(EDITS[:3], lambda done, of, loss: told.append((done, of, loss == loss)))
    assert [outcome.edit_id for outcome in receipt.outcomes] == [edit.id for edit in EDITS[:3]]
    assert all(outcome.accepted and 0 <= outcome.final_loss < 100 for outcome in receipt.outcomes)
    assert receipt.seconds > 0
    assert all(isinstance(value, float | int) for value in receipt.notes.values())
    done = [one[0] for one in told]
    assert done == sorted(set(done))
    assert told[-1] == (3, 3, True)
    assert len(receipt.losses) == len(told)
    assert editor.edits_applied == 3


def test_scope_and_routing_are_answered_by_all(edited: Callable[[str], Any], base: Base, name: str) -> None:
    editor, inputs = edited(name), padded(base, PROMPTS)
    inside = editor.in_scope(inputs["input_ids"], inputs["attention_mask"])
    assert inside is None or (inside.dtype, tuple(inside.shape)) == (torch.bool, (len(PROMPTS),))
    last = torch.full((len(PROMPTS),), inputs["input_ids"].shape[1] - 1)
    with editor.routed_at(last):
        assert torch.equal(answers(editor), answers(edited(name)))


def test_people_can_ask_the_editor_and_its_model(edited: Callable[[str], Any], untouched: Tensor, name: str) -> None:
    """What `Asking` and `make_edited` bring: a protocol cannot say it."""
    editor = edited(name)
    assert isinstance(editor.model, EditedModel)
    assert f"{name}: 6 edits" in repr(editor)
    with editor.model.without_edits():
        assert torch.equal(answers(editor), untouched)
        unedited = editor.ask(PROMPTS[:2], max_new_tokens=3)
    with editor.without_edits():
        assert editor.ask(PROMPTS[:2], max_new_tokens=3) == unedited
    assert [said.text for said in editor.ask(PROMPTS[:2], max_new_tokens=3)] == [
        editor.ask(prompt, max_new_tokens=3).text for prompt in PROMPTS[:2]
    ]


@pytest.mark.parametrize("depth", [2, 5, 32])
def test_the_blocks_it_takes_by_itself_are_known_without_a_model(name: str, depth: int) -> None:
    """`elder plan` asks for them. A method without the option edits no block."""
    layers = editor_class(name).default_layers(depth)
    assert list(layers) == sorted(set(layers))
    if name not in having("layers"):
        assert not layers
        return
    assert 0 <= layers[0] <= layers[-1] < depth


# ---- states --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(edited: Callable[[str], Any], place: Path) -> dict[str, Tensor]:
    """Every method's adapter, loaded by one other process that saw nothing of the editing: its logits, by method."""
    for method in METHODS:
        edited(method).save(place / "adapters" / method)
    program = """
import json, sys
import elder, torch
from pathlib import Path
from safetensors.torch import save_file
from tests.elder.tiny import logits_of, padded
root, prompts = Path(sys.argv[1]), json.loads(sys.argv[2])
said = {}
for folder in sorted((root / "adapters").iterdir()):
    editor = elder.load_edited(folder, device="cpu")
    assert editor.edits_applied == 6
    said[folder.name] = logits_of(editor.model, padded(editor.base, prompts))
save_file(said, str(root / "said.safetensors"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(place), json.dumps(PROMPTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return load_file(str(place / "said.safetensors"))


def test_another_process_loads_the_same_answers(
    elsewhere: dict[str, Tensor], edited: Callable[[str], Any], name: str
) -> None:
    assert torch.equal(elsewhere[name], answers(edited(name)))


class Interrupted(Exception):
    pass


def test_a_stream_that_was_interrupted_goes_on_as_if_undisturbed(
    make: Make, edited: Callable[[str], Any], base: Base, name: str, tmp_path: Path
) -> None:
    """Broken off within a call, behind a batch; saved, loaded, continued: the same state to the bit."""

    def stop(done: int, of: int, loss: float) -> None:
        if done >= 4:
            raise Interrupted

    first = make(name)
    with pytest.raises(Interrupted):
        first.edit(EDITS, stop)
    assert first.edits_applied == 4
    first.save(tmp_path)
    held, taken = first.state_dict(), state_digest(first.state_dict())
    second = load_adapter(tmp_path, base)
    assert state_digest(second.state_dict()) == taken
    assert torch.equal(answers(second), answers(first))
    second.edit(EDITS[4:])
    assert state_digest(second.state_dict()) == state_digest(edited(name).state_dict())
    assert torch.equal(answers(second), answers(edited(name)))
    first.edit(EDITS[4:])
    assert state_digest(first.state_dict()) == state_digest(second.state_dict())
    assert state_digest(held) == taken  # a state is a copy


def test_one_seed_gives_one_state_and_the_process_keeps_its_own_randomness(
    make: Make, edited: Callable[[str], Any], name: str
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = make(name)
    with torch.no_grad():  # as some callers work throughout
        again.edit(EDITS)
    assert torch.equal(torch.get_rng_state(), before)
    assert state_digest(again.state_dict()) == state_digest(edited(name).state_dict())


def test_two_editors_on_one_base_do_not_meet(
    make: Make, edited: Callable[[str], Any], untouched: Tensor, name: str
) -> None:
    said, other = answers(edited(name)), make(name)
    assert torch.equal(answers(other), untouched)
    other.edit(EDITS[4:])
    assert torch.equal(answers(edited(name)), said)
    assert not torch.equal(answers(other), said)


def test_adapters_of_other_models_and_methods_are_refused(
    edited: Callable[[str], Any], make: Make, name: str, tmp_path: Path
) -> None:
    editor, rival = edited(name), make("elder-plus" if name == "elder" else "elder")
    editor.save(tmp_path)
    stranger = wrap_base(make_model("llama", seed=1), make_tokenizer(), "stranger")
    with pytest.raises(AdapterError, match=r"was made on .*model") as caught:
        load_adapter(tmp_path, stranger)
    assert stranger.digest[:12] in str(caught.value)
    before = state_digest(rival.state_dict())
    with pytest.raises(AdapterError, match="does not fit"):
        rival.load_state_dict(editor.state_dict())
    assert state_digest(rival.state_dict()) == before


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        replace(EDITS[1], target=""),
        replace(EDITS[1], target="  "),
        replace(EDITS[1], prompt=""),
        replace(EDITS[1], subject="Nobody"),
        replace(EDITS[1], subject=None),
    ],
    ids=["empty target", "blank target", "empty prompt", "subject elsewhere", "no subject"],
)
def test_a_bad_edit_is_named_and_nothing_of_the_call_is_written(
    make: Make, untouched: Tensor, name: str, bad: Edit
) -> None:
    """The good edits of the call stand in an earlier batch; a subject is asked for only by methods that write there."""
    editor = make(name)
    before = state_digest(editor.state_dict())
    if bad.target.strip() and bad.prompt and not getattr(options_class(name), "needs_subject", False):
        assert editor.edit([EDITS[0], bad]).outcomes[1].accepted
        return
    with pytest.raises(DataError) as caught:
        editor.edit([EDITS[0], EDITS[2], bad])
    assert bad.id in str(caught.value)
    assert state_digest(editor.state_dict()) == before
    assert torch.equal(answers(editor), untouched)


def test_no_edits_are_refused(make: Make, name: str) -> None:
    with pytest.raises(ConfigError, match="no edits"):
        make(name).edit([])


@pytest.mark.parametrize("name", having("layers"))
def test_models_without_the_parts_are_refused(make: Make, base: Base, name: str) -> None:
    for layers in ((9,), (1, 9)) if takes_several_blocks(name) else ((9,),):
        with pytest.raises(ModelError, match="there is no block 9"):
            make(name, layers=layers)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    mixture = MixtralForCausalLM(MixtralConfig(vocab_size=259, **sizes, **heads))
    with pytest.raises(ModelError, match="MixtralForCausalLM, block 0: expected one linear map 48 -> 32"):
        make(name, on=wrap_base(mixture, make_tokenizer(), "mixture"))


def test_two_answers_to_one_prompt_are_settled_or_refused_as_a_whole(make: Make, untouched: Tensor, name: str) -> None:
    """Keys in conflict, in one call: an average, the last one, or an error that leaves everything as it was."""
    editor, rival = make(name), replace(EDITS[0], target="Zed", id="rival")
    before = state_digest(editor.state_dict())
    try:
        receipt = editor.edit([EDITS[0], rival, EDITS[1]])
    except ElderError:
        assert state_digest(editor.state_dict()) == before
        assert torch.equal(answers(editor), untouched)
        return
    assert [outcome.edit_id for outcome in receipt.outcomes] == [EDITS[0].id, "rival", EDITS[1].id]
    assert bool(answers(editor).isfinite().all())
    assert editor.edits_applied == 3
