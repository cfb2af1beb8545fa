"""Small files of all tasks, and models that are right or wrong by construction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from elder.ability.item import Item
from elder.ability.tasks import TASKS
from elder.base import Base
from elder.models.load import wrap_base
from tests.elder.tiny import make_tokenizer

LAST_SPECIAL = 2  # ids of <s>, </s> and <pad> in `make_tokenizer`

RECORDS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": "Two and three?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
        {"question": "Ten and two?", "answer": "10+2=12\n#### 12"},
    ],
    "rte": [
        {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0},
        {"sentence1": "Snow fell.", "sentence2": "It is hot.", "label": 1},
    ],
    "nq": [
        {"question": "who swims?", "answer": ["the fish", "Pike"], "output": ["Fish swim."]},
        {"question": "who sings?", "answer": ["Birds"], "output": ["In the morning birds sing."]},
    ],
    "boolq": [
        {"passage": "Fish swim.", "question": "do fish swim", "answer": True},
        {"passage": "Cows walk.", "question": "do cows fly", "answer": False},
    ],
    "mutual": [
        {"article": "m : tea ? f : yes .", "options": ["no .", "here .", "why ?", "bye ."], "answers": "B"},
        {"article": "f : late ? m : no .", "options": ["sit .", "run .", "oh .", "up ."], "answers": "A"},
    ],
    "samsum": [
        {"dialogue": "Jo: tea?\nAl: yes", "summary": "Al wants tea"},
        {"dialogue": "Mo: out?\nDi: no", "summary": "Di stays in"},
    ],
    "sst2": [{"sentence": "a joy", "label": 1}, {"sentence": "a bore", "label": 0}],
}
COLUMNS = """\
-DOCSTART- -X- O O

Ann NNP I-NP B-PER
Lee NNP I-NP I-PER
left VBD I-VP O
Rome NNP I-NP B-LOC
. . O O

Rain NN I-NP O
"""
PROSE = "The boat came in late, and nobody on the quay was surprised at that. " * 16


def write_files(folder: Path) -> Path:
    """A file for every task."""
    for name, records in RECORDS.items():
        (folder / TASKS[name].file).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (folder / TASKS["conll03"].file).write_text(COLUMNS)
    (folder / TASKS["wikitext"].file).write_text(PROSE)
    return folder


class Parrot(LlamaForCausalLM):
    """Continues what it was told as it was told; knows nothing else."""

    texts: tuple[str, ...] = ()
    SURE = 25.0

    def forward(
        self, input_ids: Tensor, attention_mask: Any = None, logits_to_keep: int = 0, **_: Any
    ) -> CausalLMOutput:  # type: ignore[override]
        """(B, T) -> logits (B, N, V): high at the id that comes next in a text in which the row occurs."""
        rows, width = input_ids.tolist(), input_ids.shape[1]
        kept = logits_to_keep or width
        logits = torch.zeros(len(rows), kept, self.config.vocab_size)
        for number, row in enumerate(rows):
            for place in range(width - kept, width):
                told = "".join(map(chr, (i for i in row[: place + 1] if i > LAST_SPECIAL)))
                for text in self.texts:
                    end = text.find(told) + len(told)
                    if told and told in text and end < len(text):
                        logits[number, place - width + kept, ord(text[end])] = self.SURE
                        break
        return CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The whole row, always: nothing is cached. (`generate` looks for the name `kwargs`.)"""
        return {"input_ids": input_ids, "logits_to_keep": 1}


def parrot(said: Sequence[str]) -> Base:
    """A base model that knows some texts by heart."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=259, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Parrot(config).eval()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    model.texts = tuple("".join(map(chr, one)) for one in ids)
    return wrap_base(model, tokenizer, "parrot")


def edited(before: Base, after: Base) -> Any:
    """What a meter sees of an editor that made the second model of the first."""
    model: Any = after.model

    @contextmanager
    def disabled() -> Iterator[None]:
        learnt, model.texts = model.texts, before.model.texts
        yield
        model.texts = learnt

    return SimpleNamespace(base=before, model=model, routed_at=lambda place: nullcontext(), disabled=disabled)


def told(items: Sequence[Item], right: bool) -> list[str]:
    """What a model must know by heart to be right, or wrong, about every item."""
    return [item.prompt + (right_answer(item) if right else wrong_answer(item)) for item in items]


def right_answer(item: Item) -> str:
    """An answer that is worth 1; of several entities all are named."""
    if item.choices:
        return item.gold[0]
    return f" {' and '.join(item.gold) if item.group else item.gold[0]}\n"


def wrong_answer(item: Item) -> str:
    """An answer that is worth 0."""
    return next((choice for choice in item.choices if choice not in item.gold), " zzz zzz zzz\n")
