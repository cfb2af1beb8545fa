"""The tasks by name: how a record becomes items, how an item is asked, and what its answer is worth.

The eight tasks and their prompts are those of Model-Editing-Hurt (2401.04700), which ELDER (AAAI 2025) uses;
docs/metrics.md says where the scores differ. Imports no torch. Knows nothing of files, models or edits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elder.ability import prompts
from elder.ability.item import Item
from elder.ability.judging import first_number, names_all, rouge, says_any

PROTOCOL = "1"
"""Changes with every prompt, limit and score of this room: scores of another one are not compared."""

SAID = ".said"  # ends the name of the stricter figure of a task with choices

Kind = Literal["choice", "answer", "text"]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: As users write it.
        title: What it asks for, and of which data.
        kind: `choice`: the likeliest of the choices; `answer`: what the model says; `text`: the loss of the text.
        fields: What a record must have; none where the file is no JSON.
        build: Makes the items of a record, usually one.
        judge: What an answer is worth, 0 to 1.
        limit: Most new tokens of an answer.
        file: How its file is called, before `.gz`.
    """

    name: str
    title: str
    kind: Kind
    fields: tuple[str, ...] = ()
    build: Callable[[Mapping[str, Any]], list[Item]] = field(default=lambda record: [])
    judge: Callable[[str, Item], float] = field(default=lambda said, item: 0.0)
    limit: int = 1

    @property
    def file(self) -> str:
        """The name of its file, which may end in `.gz` too."""
        return f"{self.name}_test.{'jsonl' if self.fields else 'txt'}"

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of its figures."""
        return (self.name, f"{self.name}{SAID}") if self.kind == "choice" else (self.name,)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("gsm8k", "reasoning, GSM8K", "answer", ("question", "answer"), prompts.gsm8k, first_number, 5),
        Task("rte", "inference, RTE", "choice", ("sentence1", "sentence2", "label"), prompts.rte),
        Task("nq", "open-domain questions, NQ", "answer", ("question", "answer", "output"), prompts.nq, says_any, 20),
        Task("boolq", "closed-domain questions, BoolQ", "choice", ("passage", "question", "answer"), prompts.boolq),
        Task("mutual", "dialogue, MuTual", "choice", ("article", "options", "answers"), prompts.mutual),
        Task("samsum", "summaries, SAMSum", "answer", ("dialogue", "summary"), prompts.samsum, rouge, 25),
        Task("conll03", "entities, CoNLL-2003", "answer", (), prompts.conll03, names_all, 10),
        Task("sst2", "sentiment, SST-2", "choice", ("sentence", "label"), prompts.sst2),
        Task("wikitext", "perplexity, WikiText", "text"),
    )
}
NAMES = tuple(TASKS)
FIGURES = tuple(name for task in TASKS.values() for name in task.figures)
PERPLEXITIES = tuple(name for name, task in TASKS.items() if task.kind == "text")
