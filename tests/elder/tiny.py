"""Tiny models with random weights, a byte tokenizer, a few edits, and ranks that are threads: all built in code."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from elder.base import Base
from elder.edit import Edit
from elder.models.load import wrap_base
from elder.runtime import LocalRuntime
from elder.tokens import encode_prompt, pad_left

FAMILIES = ("llama", "gpt2")
METHODS = ("elder", "elder-plus")
DEPTH, WIDTH, INNER = 4, 32, {"llama": 48, "gpt2": 128}

OPTIONS: dict[str, dict[str, Any]] = {
    "elder": {"layers": (1, 2, 3), "rank": 2, "experts": 6, "steps": 8, "lr": 3e-3, "batch_size": 2, "epsilon": 4},
    "elder-plus": {
        "layers": (2, 3),
        "rank": 2,
        "experts": 6,
        "parameters_per_edit": 0,
        "steps": 8,
        "extra_steps": 4,
        "lr": 1e-2,
        "batch_size": 2,
        "replay": 3,
        "replay_pool": 2,
        "subject_threshold": 0.95,
        "answer_threshold": 0.95,
    },
}

PUSH = 2.0  # nats for the next token of an answer, in editors whose maps are larger than they were learnt

FACTS = (
    ("The river of", "Arlo", "Tam", "Arlo lies on the river", "By which river is Arlo built? The"),
    ("The mayor of", "Brend", "Ula", "Brend is governed by", "Who is mayor in Brend? It is"),
    ("The colour of", "Cossit", "red", "Cossit looks", "What is the hue of Cossit? Plain"),
    ("The food of", "Dinna", "figs", "Dinna likes to eat", "What does Dinna eat? Mostly"),
    ("The language of", "Ekkel", "Oro", "Ekkel is where they speak", "What is spoken in Ekkel? Mainly"),
    ("The founder of", "Furgo", "Ivo", "Furgo was begun by", "Who founded Furgo? I think"),
)
EDITS = tuple(
    Edit(f"{start} {name} is", target, subject=name, rephrases=(first, second))
    for start, name, target, first, second in FACTS
)
OTHERS = ("Water boils when", "1 + 1 =", "A quiet song about the sea and", "zzz qqq", "Nobody knew the", "Seven")


def make_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Every byte is a token; `<s>` stands in front of texts (if `bos`)."""
    pieces = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """Four blocks with weights large enough that different texts have different states; never stops by itself."""
    torch.manual_seed(seed)
    shared = {"vocab_size": 259, "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.25}
    if family == "llama":
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        sizes = {"hidden_size": WIDTH, "intermediate_size": INNER["llama"], "num_hidden_layers": DEPTH}
        return LlamaForCausalLM(LlamaConfig(**shared, **sizes, **heads)).to(dtype).eval()
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=DEPTH, n_head=4, n_positions=256, **shared, **quiet))
    with torch.no_grad():  # biases are born zero, which would hide a bias that is lost
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model.to(dtype).eval()


def make_base(family: str, dtype: torch.dtype = torch.float32, runtime: LocalRuntime | None = None) -> Base:
    """A tiny base model; the Llama's tokenizer begins texts with BOS, the GPT-2's does not."""
    model, tokenizer = make_model(family, dtype), make_tokenizer(bos=family == "llama")
    return wrap_base(model, tokenizer, f"tiny:{family}", runtime or LocalRuntime("cpu"))


def padded(base: Base, prompts: Sequence[str], extra: int = 0) -> dict[str, Tensor]:
    """Model inputs for prompts, filled up on the left; `extra` more columns of padding than needed."""
    rows = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    ids, mask, positions = pad_left(rows, 2, "cpu")
    if extra:
        ids = torch.cat([torch.full((len(ids), extra), 2), ids], dim=1)
        mask, positions = (torch.cat([torch.zeros(len(t), extra, dtype=t.dtype), t], 1) for t in (mask, positions))
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def padded_right(base: Base, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Model inputs for prompts, filled up on the right."""
    rows = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": torch.arange(width).expand(len(rows), -1)}


@torch.no_grad()
def logits_of(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """(B, T, V) without a cache."""
    return model(**inputs, use_cache=False, **options).logits


@torch.no_grad()
def states_of(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """(B, T, D) below the first block and behind each.

    Asks a copy: transformers leaves hooks in a model that was asked, and pickles none of them.
    """
    return copy.deepcopy(model)(**inputs, output_hidden_states=True).hidden_states


@torch.no_grad()
def greedy(model: Any, row: Sequence[int], more: int) -> list[int]:
    """A row of ids with the likeliest next ones, each from a whole pass without a cache."""
    ids = list(row)
    for _ in range(more):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids


def real_rows(inputs: dict[str, Tensor], values: Tensor) -> list[Tensor]:
    """The values at each row's real tokens; those at padding mean nothing."""
    return [row[mask.bool()] for row, mask in zip(values, inputs["attention_mask"], strict=True)]


class ThreadRuntime(LocalRuntime):
    """One of several ranks that are threads of this process and hold the whole model each."""

    def __init__(self, rank: int, world_size: int, group: dict[str, Any]) -> None:
        super().__init__("cpu")
        self.rank, self.world_size, self.group = rank, world_size, group

    def gather_objects(self, item: Any) -> list[Any]:
        self.group["items"][self.rank] = item
        self.group["barrier"].wait(timeout=30)
        gathered = list(self.group["items"])
        self.group["barrier"].wait(timeout=30)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(sum(self.gather_objects(tensor.detach().clone())))  # one by one: the same bits for all

    def barrier(self) -> None:
        self.gather_objects(None)


def on_ranks(program: Callable[[ThreadRuntime], Any], world_size: int = 2) -> list[Any]:
    """Run `program(runtime)` on several ranks at once; what each returned, or the first error."""
    group = {"items": [None] * world_size, "barrier": threading.Barrier(world_size)}
    results: list[Any] = [None] * world_size
    errors: list[BaseException] = []

    def main(rank: int) -> None:
        try:
            results[rank] = program(ThreadRuntime(rank, world_size, group))
        except BaseException as error:
            errors.append(error)
            group["barrier"].abort()

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results
