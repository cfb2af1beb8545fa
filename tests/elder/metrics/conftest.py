"""Small stand-ins for a base model and an editor: a byte tokenizer, a model that is a table, a tiny Llama."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elder.base import Base
from elder.runtime import LocalRuntime


def make_byte_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Every byte is a token; `<s>` in front of texts (if `bos`), `</s>` ends them, `<pad>` fills."""
    pieces = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


class TableModel(nn.Module):
    """A causal language model that recites: after a known prompt its answer, then EOS; else 'x', then EOS.

    `table` maps prompts to answers; `base` is the table of the unedited model. Counts its forwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, base: Mapping[str, str], edited: Mapping[str, str]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.config = SimpleNamespace(vocab_size=len(tokenizer), max_position_embeddings=200)
        self.tables = {"base": dict(base), "edited": {**base, **edited}}
        self.active = "edited"
        self.forwards = 0
        self.seen: list[tuple[str, str]] = []
        self.kept: list[int] = []

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, logits_to_keep: int = 0, **_: Any
    ) -> SimpleNamespace:
        self.forwards += 1
        self.kept.append(logits_to_keep)
        assert torch.equal(position_ids, (attention_mask.cumsum(1) - 1).clamp(min=0))
        scripts = [self._script(prompt, said) for prompt, said in self.tables[self.active].items()]
        width = input_ids.shape[1]
        logits = torch.zeros(len(input_ids), width, self.config.vocab_size)
        for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            pad = mask.count(0)
            for t in range(pad, width):
                logits[row, t, self._next(ids[pad : t + 1], scripts)] = 10.0
            self.seen.append((self.active, self.tokenizer.decode(ids[pad:], skip_special_tokens=True)))
        return SimpleNamespace(logits=logits[:, -logits_to_keep:] if logits_to_keep else logits)

    def _script(self, prompt: str, said: str) -> list[int]:
        return [*self.tokenizer(f"{prompt} {said}")["input_ids"], self.tokenizer.eos_token_id]

    def _next(self, ids: list[int], scripts: list[list[int]]) -> int:
        for script in scripts:
            if len(ids) < len(script) and script[: len(ids)] == ids:
                return script[len(ids)]
        stop = int(self.tokenizer.eos_token_id)
        letter = int(self.tokenizer("x", add_special_tokens=False)["input_ids"][0])
        return stop if ids[-1] == letter else letter


class TableRuntime(LocalRuntime):
    """One process; generation is a plain greedy loop over full forwards, so that tables can generate."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.generations: list[int] = []  # rows of each call

    def generate(self, model: nn.Module, **kwargs: Any) -> Tensor:
        ids, mask, config = kwargs["input_ids"], kwargs["attention_mask"], kwargs["generation_config"]
        self.generations.append(len(ids))
        for _ in range(config.max_new_tokens):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
        return ids


class ThreadRuntime(TableRuntime):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, world_size: int, sharded: bool, group: dict[str, Any]) -> None:
        super().__init__()
        self.rank, self.world_size, self.sharded = rank, world_size, sharded
        self._group = group

    def gather_objects(self, item: Any) -> list[Any]:
        self._group["items"][self.rank] = item
        self._group["barrier"].wait(timeout=20)
        gathered = list(self._group["items"])
        self._group["barrier"].wait(timeout=20)
        return gathered


class FakeEditor:
    """The part of the Editor protocol that metrics use, on a table or a real model.

    `scope` decides by text which prompts are in scope; None stands for a method without deferral.
    """

    method = "fake"

    def __init__(self, base: Base, scope: Callable[[str], bool] | None = None) -> None:
        self.base = base
        self.model = base.model
        self.scope = scope
        self.routed: list[list[str]] = []
        self._positions: Tensor | None = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.model.active = "base"
        try:
            yield
        finally:
            self.model.active = "edited"

    @contextmanager
    def routed_at(self, positions: Tensor) -> Iterator[None]:
        self.routed.append(positions.tolist())
        yield

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        self.model.forwards += 1
        if self.scope is None:
            return None
        texts = [self.base.tokenizer.decode(row, skip_special_tokens=True) for row in input_ids.tolist()]
        return torch.tensor([self.scope(text) for text in texts])


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    return make_byte_tokenizer()


@pytest.fixture
def table_editor(byte_tokenizer: PreTrainedTokenizerFast) -> Callable[..., FakeEditor]:
    """Make an editor from what the base says and what the edited model says instead."""

    def make(
        base: Mapping[str, str],
        edited: Mapping[str, str],
        scope: Callable[[str], bool] | None = None,
        runtime: LocalRuntime | None = None,
    ) -> FakeEditor:
        model = TableModel(byte_tokenizer, base, edited)
        return FakeEditor(Base(model, byte_tokenizer, "table", runtime or TableRuntime()), scope)

    return make


@pytest.fixture
def on_ranks() -> Callable[..., list[Any]]:
    """Run `program(runtime)` on several ranks at once and return what each returned."""

    def run(program: Callable[[ThreadRuntime], Any], world_size: int, sharded: bool) -> list[Any]:
        group = {"items": [None] * world_size, "barrier": threading.Barrier(world_size)}
        results: list[Any] = [None] * world_size
        errors: list[BaseException] = []

        def main(rank: int) -> None:
            try:
                results[rank] = program(ThreadRuntime(rank, world_size, sharded, group))
            except BaseException as error:
                errors.append(error)
                group["barrier"].abort()

        threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        if errors:
            raise errors[0]
        return results

    return run


@pytest.fixture(scope="session")
def tiny_llama(byte_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Two layers, random weights, 128 positions."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def llama_editor(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> FakeEditor:
    """An identity editor on the tiny Llama: `disabled` changes nothing."""
    return IdentityEditor(Base(tiny_llama, byte_tokenizer, "tiny", LocalRuntime("cpu")))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data, or a skip."""
    default = Path(__file__).resolve().parents[4] / "shared"
    path = Path(os.environ.get("ELDER_SHARED", default))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path} (set ELDER_SHARED)")
    return path


class IdentityEditor(FakeEditor):
    """An editor without edits on a real model: active or disabled, it is the base."""

    @contextmanager
    def disabled(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="session")
def identity_editor() -> Callable[[Base], IdentityEditor]:
    """Make an identity editor on a base."""
    return IdentityEditor
