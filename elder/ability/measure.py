"""Asks a model the items of tasks, and an edited one the same beside the unedited one.

Greedy and in batches, as plain texts, with the edits routed where the prompt ends. Knows nothing of files of data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from elder.ability.files import items_digest
from elder.ability.intervals import Scores, difference, with_interval
from elder.ability.item import Item
from elder.ability.tasks import PROTOCOL, TASKS, Task
from elder.base import Editor
from elder.metrics.batching import MeasuringProgress, ProgressMeter
from elder.metrics.completions import Ask, Completer
from elder.metrics.perplexity import windows
from elder.metrics.scoring import Pair

Tasks = Mapping[str, Sequence[Item]]


class AbilityMeter:
    """Measures an editor on tasks, again and again as it learns; the unedited model is asked once.

    Every method is collective: all ranks call it with the same arguments and get the same result.

    Args:
        editor: The editor to be measured, in whatever state it is when `measure` is called.
        tasks: Items by the name of their task.
        batch_size: Most rows of one forward.
        cache: Folder where the scores of unedited models are kept for the next process; None keeps none.
    """

    def __init__(self, editor: Editor, tasks: Tasks, batch_size: int, cache: Path | None = None) -> None:
        self.editor, self.tasks, self.batch_size, self.cache = editor, tasks, batch_size, cache
        self._base: dict[str, dict[str, Scores]] = {}

    def measure(self, progress: MeasuringProgress | None = None) -> dict[str, dict[str, Any]]:
        """For each figure its `n`, its score `before` and `after`, and the `difference`, with 95 % intervals.

        Args:
            progress: Called after every batch with (items done, items in all).

        Raises:
            DataError: A choice does not fit into the context of the model.
        """
        known = {name: self._remembered(name) for name in self.tasks}
        meter = ProgressMeter(sum(len(items) * (1 + (not known[name])) for name, items in self.tasks.items()), progress)
        # The editor's own model, without its edits: where the base is sharded, nobody has made its model ready to run.
        unedited = replace(self.editor.base, model=self.editor.model)
        base, edited = Completer(unedited, self.batch_size), Completer(self.editor, self.batch_size)
        found: dict[str, dict[str, Any]] = {}
        for name, items in self.tasks.items():
            with self.editor.disabled():
                before = known[name] or self._keep(name, ask(base, TASKS[name], items, meter))
            after = ask(edited, TASKS[name], items, meter)
            for figure, scores in after.items():
                found[figure] = {
                    "n": len(items),
                    "before": with_interval(before[figure]),
                    "after": with_interval(scores),
                    "difference": difference(before[figure], scores),
                }
        return found

    def figures(self, progress: MeasuringProgress | None = None) -> dict[str, float]:
        """Metrics of a stage: `ability.TASK` with the edits, `ability_base.TASK` without; as `measure`."""
        measured, sides = self.measure(progress), {"ability": "after", "ability_base": "before"}
        return {f"{side}.{name}": row[at]["value"] for side, at in sides.items() for name, row in measured.items()}

    # ---- the unedited model ---------------------------------------------------------------------------------------

    def _remembered(self, name: str) -> dict[str, Scores] | None:
        """The unedited model's scores, if they were measured before. Rank 0 looks for all."""
        if name not in self._base and self.cache is not None:
            path = self._place(name)
            kept = _read(path) if self.editor.base.runtime.rank == 0 else None
            kept = self.editor.base.runtime.gather_objects(kept)[0]
            if kept is not None:
                self._base[name] = kept
        return self._base.get(name)

    def _keep(self, name: str, scores: dict[str, Scores]) -> dict[str, Scores]:
        self._base[name] = scores
        if self.cache is not None:
            path = self._place(name)
            if self.editor.base.runtime.rank == 0:
                _write(path, scores)
        return scores

    def _place(self, name: str) -> Path:
        """Named by the weights, their number format, the task, its items and the protocol; collective."""
        base, items = self.editor.base, self.tasks[name]
        facts = [base.digest, str(base.model.dtype), name, len(items), items_digest(items), PROTOCOL]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return Path(self.cache or ".") / "ability" / f"{name}-{len(items)}-{key[:24]}.json"


def ask(completer: Completer, task: Task, items: Sequence[Item], meter: ProgressMeter) -> dict[str, Scores]:
    """Ask all items of a task, longest prompts first; scores by the name of the figure, in the order of the items."""
    run = {"choice": _chosen, "answer": _answered, "text": _read_through}[task.kind]
    order = sorted(range(len(items)), key=lambda i: (-len(items[i].prompt), i))
    step = completer.batch_size * completer.runtime.world_size
    rows: dict[int, tuple[float, ...]] = {}
    for start in range(0, len(order), step):
        numbers = order[start : start + step]
        rows |= dict(zip(numbers, run(completer, task, [items[i] for i in numbers]), strict=True))
        meter.settle(len(numbers))
    columns = list(zip(*(rows[i] for i in range(len(items))), strict=True))
    groups, ones = tuple(item.group for item in items), (1.0,) * len(items)
    if task.kind == "text":
        return {task.name: Scores(columns[0], columns[1], groups, perplexity=True)}
    return {name: Scores(values, ones, groups) for name, values in zip(task.figures, columns, strict=True)}


# ---- kinds of tasks --------------------------------------------------------------------------------------------------

Rows = list[tuple[float, ...]]
Run = Callable[[Completer, Task, Sequence[Item]], Rows]


def _chosen(completer: Completer, task: Task, items: Sequence[Item]) -> Rows:
    """Whether the right choice is the likeliest, and whether it is also what the model says by itself."""
    asked = [completer.pair(item.prompt, choice) for item in items for choice in item.choices]
    found = iter(completer.likelihoods(asked))
    rows: Rows = []
    for item in items:
        likely = {choice: next(found) for choice in item.choices}
        best = max(likely, key=lambda choice: likely[choice][0])
        rows.append((float(best == item.gold[0]), float(likely[item.gold[0]][1])))
    return rows


def _answered(completer: Completer, task: Task, items: Sequence[Item]) -> Rows:
    """What the greedy answer is worth."""
    said = completer.complete([Ask(item.prompt, (), task.limit) for item in items])
    return [(task.judge(text, item),) for text, item in zip(said, items, strict=True)]


def _read_through(completer: Completer, task: Task, items: Sequence[Item]) -> Rows:
    """The negative log-likelihood of a text behind the first half window, and the number of tokens scored."""
    cut = [windows(completer.tokenizer, item.prompt, completer.context) for item in items]
    pairs = [Pair(window.context, window.scored) for text in cut for window in text]
    found = iter(completer.likelihoods(pairs))
    sums = [(-sum(next(found)[0] for _ in text), float(sum(len(w.scored) for w in text))) for text in cut]
    return [*sums]


# ---- files of scores -------------------------------------------------------------------------------------------------


def _write(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write beside, then rename, so that no other process reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{hashlib.sha256(repr(scores).encode()).hexdigest()[:8]}")
    beside.write_text(json.dumps({name: vars(one) for name, one in scores.items()}), encoding="utf-8")
    beside.replace(path)


def _read(path: Path) -> dict[str, Scores] | None:
    """What `_write` wrote; None if there is nothing, or nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            figure: Scores(tuple(one["values"]), tuple(one["weights"]), tuple(one["groups"]), one["perplexity"])
            for figure, one in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
