"""Every family x every method: edited right after one fact, or refused with the reason.

What is wrong in a family shows in the loss of the first step, which must be that of a plain pass without any cache,
packing or shortcut, and in the answer behind the edit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.errors import ModelError
from elder.forward.partial import PartialForward
from elder.forward.upper import ValueRow
from elder.metrics.generation import Decoder
from elder.models.anatomy import anatomy
from elder.models.attention import attention_of
from elder.registry import METHODS
from elder.runtime import LocalRuntime
from elder.state import state_digest
from elder.targets.observe import Observer
from elder.tokens import encode_prompt, encode_target, end_ids
from tests.elder.families.table import BEGIN, END, GRADIENTS, ONE_BLOCK, PAGE, REFUSED, SEVERAL, markdown
from tests.elder.families.zoo import ANSWER, FAMILIES, WINDOW, build, make_base
from tests.elder.tiny import logits_of, padded, padded_right
from tests.methods import strong

PROMPT = "It was said in the old town that the river of Arlo is"
FACT = Edit(
    PROMPT, ANSWER, subject="Arlo", rephrases=("Arlo lies on", "By which river, they asked, is Arlo built? The")
)
SHORT = Edit("Arlo lies on", ANSWER, subject="Arlo", rephrases=("Arlo has", "By Arlo is"))
OTHERS = (
    "Water boils when",
    "A quiet song about the sea and the wind that comes from far away",
    "Seven",
    "zzz qqq",
    "1 + 1 =",
    "Nobody knew the",
    "Once upon a time there was a king",
    "The moon",
)
TEXT = "The quick brown fox jumps over the lazy dog by the river.\n" * 10
MOST = 40  # repetitions of an edit that takes one gradient step

SMALL: dict[str, Any] = {
    "batch_size": 1,
    "contexts": 0,
    "jitter": 0.1,
    "clamp": 100.0,
    "decay": 0.0,
    "kl_factor": 0.0,
    "trained": "none",
    "text_tokens": 400,
    "terminator": "none",
    "guide_weight": 0.0,
}
"""Taken for every option of such a name."""
MIXTURES = ("elder", "elder-plus", "melo")
FITTED: dict[tuple[str, str], dict[str, Any]] = {
    **{("Nemotron", method): {"steps": 60} for method in ("rome", *SEVERAL)},
    ("Mamba", "ultraedit"): {"lr": 5e-3},
    ("GPT-2", "ultraedit"): {"lr": 1e-2},
    ("GPTBigCode", "ultraedit"): {"lr": 1e-2},
}
"""What a random model needs beside that until it says the fact."""
EDITED = [(family, method) for family in FAMILIES for method in METHODS if method not in REFUSED.get(family, {})]
# The layouts that people use most, and one of each kind that made a method wrong; the others take minutes more.
COMMON = (
    "Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3.5", "Gemma 2", "Gemma 3", "Phi", "Phi-3", "GPT-2", "GPT-J", "GPT-NeoX",
    "Falcon", "Cohere 2", "OLMo 2", "BLOOM", "Granite", "SmolLM3", "StarCoder2", "GLM-4", "Llama 4, dense", "Mamba",
)  # fmt: skip
CELLS = [pytest.param(f, m, marks=() if f in COMMON else pytest.mark.slow) for f, m in EDITED]
base_of: Callable[[str], Base] = cache(make_base)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("families") / "text.txt"
    path.write_text(TEXT)
    return str(path)


def make(family: str, method: str, text: str, **options: Any) -> Any:
    """A small editor; one block where a family's MLPs cannot share a change out."""
    one = {"layers": (3,)} if FAMILIES[family].bends and (method in SEVERAL or method == "rome") else {}
    return make_editor(
        method,
        base_of(family),
        **{**strong(method, **SMALL, text=text), **one, **FITTED.get((family, method), {}), **options},
    )


def ids_of(base: Base, prompt: str) -> tuple[list[int], list[int]]:
    return encode_prompt(base.tokenizer, prompt), encode_target(base.tokenizer, prompt, ANSWER)


def plain_loss(base: Base, prompts: Sequence[str]) -> float:
    """Mean cross-entropy of the answer's tokens, a row at a time, without a cache."""
    losses = []
    for prompt in prompts:
        head, tail = ids_of(base, prompt)
        logits = logits_of(base.model, {"input_ids": torch.tensor([head + tail])})[0, len(head) - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(tail), reduction="none"))
    return float(torch.cat(losses).mean())


def says(model: Any, base: Base, prompt: str) -> bool:
    """Whether greedy generation with a cache gives the answer."""
    head, tail = ids_of(base, prompt)
    ids = torch.tensor([head])
    options = {"max_new_tokens": len(tail), "do_sample": False}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return bool(out[0, len(head) :].tolist() == tail)


def trained_prompts(method: str, edit: Edit) -> Sequence[str]:
    return edit.training_prompts if method in ("elder", "melo") else (edit.prompt,)


# ---- edited --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), CELLS)
def test_the_first_loss_is_that_of_a_plain_pass(family: str, method: str, text: str) -> None:
    """Rows longer than a window and shorter ones, a subject in the middle of its row."""
    base = base_of(family)
    for edit in (FACT, SHORT) if method in MIXTURES else (FACT,):
        prompts = trained_prompts(method, edit)
        editor = make(family, method, text, **({"steps": 1} if "steps" in strong(method) else {}))
        first = editor.edit([edit]).losses[0][0]
        if method == "elder-plus":  # its rows stand behind sentences, too
            tokenizer = base.tokenizer
            prompts = [tokenizer.decode(row.prompt, skip_special_tokens=True) for row in editor.ledger.rows]
            assert len(prompts) > 1
        lengths = [sum(map(len, ids_of(base, prompt))) for prompt in prompts]
        assert max(lengths) > 2 * WINDOW if edit is FACT or method == "elder-plus" else max(lengths) <= WINDOW
        assert first == pytest.approx(plain_loss(base, prompts), rel=2e-5)


@pytest.mark.parametrize(("family", "method"), CELLS)
def test_one_fact_is_said(family: str, method: str, text: str) -> None:
    base = base_of(family)
    assert not says(base.model, base, PROMPT)
    where = {"fact_token": "last"} if method in ("rome", *SEVERAL) else {}
    editor = make(family, method, text, **where)
    outcome = editor.edit([FACT]).outcomes[0]
    for _ in range(MOST if method in GRADIENTS else 0):
        if says(editor.model, base, PROMPT):
            break
        editor.edit([FACT])
    assert says(editor.model, base, PROMPT)
    if where:  # what was asked of the maps is there, through scaled residuals and norms
        assert outcome.details["residual_left"] < 2e-3 * outcome.details["residual"]
    inputs = padded(base, [PROMPT, *OTHERS])
    with editor.disabled():
        assert torch.equal(logits_of(editor.model, inputs), logits_of(base.model, inputs))
    if method in MIXTURES:
        check_scope(editor, base)


def check_scope(editor: Any, base: Base) -> None:
    """Out of scope the base model to the bit: beside the edited prompt, padded left and right, and generated.

    Hamming deferral takes in what it should not, the calibrated gate does not.
    """
    prompts = [PROMPT, *OTHERS]
    ids, mask = (padded(base, prompts)[name] for name in ("input_ids", "attention_mask"))
    inside = editor.in_scope(ids, mask).tolist()
    assert inside[0]
    assert sum(inside) == 1 or (editor.method == "elder" and sum(inside) < len(prompts))
    for inputs in (padded(base, prompts, extra=3), padded_right(base, prompts)):
        now, before, real = logits_of(editor.model, inputs), logits_of(base.model, inputs), inputs["attention_mask"]
        same = [torch.equal(n[m.bool()], b[m.bool()]) for n, b, m in zip(now, before, real, strict=True)]
        assert same == [not one for one in inside]
    options = {"attention_mask": mask, "max_new_tokens": 3, "do_sample": False}
    now, before = (model.generate(ids, **options) for model in (editor.model, base.model))
    assert all(torch.equal(n, b) for n, b, one in zip(now, before, inside, strict=True) if not one)


@pytest.mark.parametrize("family", [family for family, method in EDITED if method == "mend"])
def test_an_untrained_network_writes_the_plain_gradient(family: str, text: str) -> None:
    """MEND without a network is gradient descent: the change is that of autograd on the plain model."""
    editor, base = make(family, "mend", text), base_of(family)
    editor.edit([FACT])
    model = copy.deepcopy(base.model).requires_grad_(True)
    head, tail = ids_of(base, PROMPT)
    logits = model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0, len(head) - 1 : -1]
    F.cross_entropy(logits, torch.tensor(tail)).backward()
    for name, delta in editor.deltas.of.items():
        slope: Tensor = anatomy(model).mlp_out[int(name.split(".")[0])].weight.grad
        wanted = -strong("mend")["lr"] * (slope if slope.shape == delta.dense.shape else slope.T)
        assert float((delta.dense - wanted).norm()) < 1e-4 * float(wanted.norm())


def test_what_a_block_adds_in_place_to_its_map_is_not_remembered(text: str) -> None:
    """Falcon adds attention to what the output map returned; the first edited block remembers what that was."""
    base = base_of("Falcon")
    editor = make("Falcon", "elder", text, target="mlp_out", steps=3)
    receipt = editor.edit([FACT])
    assert receipt.losses[0][0] == pytest.approx(plain_loss(base, FACT.training_prompts), rel=2e-5)


def test_several_end_tokens_are_all_ends() -> None:
    base = make_base("Llama")
    assert end_ids(base.model) == frozenset()
    base.model.generation_config.eos_token_id = [1, 5]
    assert end_ids(base.model) == {1, 5}
    assert {1, 5} <= Decoder.to_stop(base.tokenizer, 8, 2, ends=end_ids(base.model)).stops
    base.model.generation_config.eos_token_id = 7
    assert end_ids(base.model) == {7}


@pytest.mark.parametrize(
    ("family", "share"), [("Llama", 1.0), ("Falcon", 1.0), ("Granite", 0.5), ("Gemma 2", None), ("OLMo 2", None)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_block_does_to_its_map_is_found_by_trying(family: str, share: float | None, dtype: torch.dtype) -> None:
    model = build(family).to(dtype)
    parts = anatomy(model)
    observer = Observer(model, PartialForward(parts.blocks), dict(enumerate(parts.mlp_out)), LocalRuntime("cpu"), 2)
    for layer in range(4):
        found = observer.share_of(ValueRow(0, (0, 7, 9, 20), 3, (3,)), layer)
        assert found == (None if share is None else pytest.approx(share, rel=1e-5 if dtype == torch.float32 else 1e-2))
        assert share != 1.0 or found == 1.0


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("Llama", (True, None)),
        ("Mistral", (True, WINDOW)),
        ("Gemma 3", (True, WINDOW)),
        ("Llama 4, dense", (True, WINDOW)),
        ("LFM2", (False, None)),
        ("Qwen3.5", (False, None)),
        ("Falcon-H1", (False, None)),
    ],
)
def test_the_memory_of_layers_is_read_off_the_config(family: str, expected: tuple[bool, int | None]) -> None:
    found = attention_of(build(family))
    assert (found.remembers, found.reach) == expected
    assert found.packs([3, WINDOW]) == found.remembers
    assert found.packs([3, WINDOW + 1]) == (expected == (True, None))


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "method"), [(f, m) for f, methods in REFUSED.items() for m in methods])
def test_others_are_refused_with_the_reason(family: str, method: str, text: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[family][method]):
        make(family, method, text).edit([FACT])


@pytest.mark.parametrize("method", SEVERAL)
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.bends])
def test_behind_a_norm_a_change_is_not_shared_out(family: str, method: str, text: str) -> None:
    """The error names what would work, comes before any statistics, and leaves everything as it was."""
    editor = make(family, method, text, layers=(1, 2))
    before = state_digest(editor.state_dict())
    with pytest.raises(ModelError, match=ONE_BLOCK):
        editor.edit([FACT])
    assert editor.windows is None
    assert state_digest(editor.state_dict()) == before


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_tells_what_is_true() -> None:
    """Write it anew with `python -m tests.elder.families.table`."""
    page = PAGE.read_text()
    assert f"{BEGIN}\n{markdown()}\n{END}" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 100
