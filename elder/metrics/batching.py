"""Work in batches over the ranks of a runtime, results back in the order asked.

Knows nothing of models, tokens or metrics: an item is anything that has a size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from elder.runtime import Runtime, merge_shares, rounds, share

Item = TypeVar("Item")
Result = TypeVar("Result")

MeasuringProgress = Callable[[int, int], None]
"""Called after every batch with (items done, items in all), counted over all ranks."""


@dataclass
class ProgressMeter:
    """Counts items done towards a total that is known from the start.

    Each rank counts only its own batches; the others run beside it, so a batch of n rows stands for
    n * world_size items. `settle` corrects the remainder after every piece of work.
    """

    total: int
    report: MeasuringProgress | None = None
    settled: int = 0
    done: int = 0

    def advance(self, items: int) -> None:
        """Some items were done since the last `settle`."""
        self.done = min(self.done + items, self.total)
        if self.report is not None and items:
            self.report(self.done, self.total)

    def settle(self, items: int) -> None:
        """A piece of work of so many items is complete."""
        self.settled += items
        behind = self.settled - self.done
        self.done = self.settled
        if self.report is not None and behind:
            self.report(self.done, self.total)


def run_batched(
    items: Sequence[Item],
    size: Callable[[Item], int],
    batch_size: int,
    runtime: Runtime,
    run: Callable[[list[Item]], Sequence[Result]],
    meter: ProgressMeter | None = None,
) -> list[Result]:
    """Run all items in batches, split over the ranks, and give every rank all results.

    Items are sorted by size, largest first, so that a batch holds rows of like length (little
    padding) and memory runs out at once or never; then they are dealt in turn, so that the ranks have
    the same amount of work. Collective: every rank calls it with the same items.

    When the model is sharded every forward is collective. Then all ranks run the same number of
    batches; a rank that has no items left runs its smallest one again and drops the result.

    Args:
        items: What is to be done; the same on every rank.
        size: Length of an item, for sorting.
        batch_size: Most items in one call of `run`.
        runtime: Where the ranks meet.
        run: Does one non-empty batch and returns one result for each item, in order.
        meter: Told about every batch.

    Returns:
        One result for each item, in the order of `items`.
    """
    if not items:
        return []
    order = sorted(range(len(items)), key=lambda i: (-size(items[i]), i))
    mine = share(order, runtime)
    results: list[Result] = []
    longest = rounds(len(items), runtime) if runtime.sharded else len(mine)
    for start in range(0, longest, batch_size):
        batch = [items[i] for i in mine[start : start + batch_size]]
        if batch:
            results.extend(run(batch))
        else:
            run([items[order[-1]]])
        if meter is not None:
            meter.advance(len(batch) * runtime.world_size)
    merged = merge_shares(runtime.gather_objects(results)) if runtime.world_size > 1 else results
    answers: list[Result | None] = [None] * len(items)
    for position, result in zip(order, merged, strict=True):
        answers[position] = result
    if meter is not None:
        meter.settle(len(items))
    return answers  # type: ignore[return-value]  # every place was filled above
