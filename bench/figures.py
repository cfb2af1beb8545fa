"""The three groups of figures: edits a second, generation with an adapter attached, look-up of stored edits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from bench.model import Shape, batch_of, make_edits, make_prompts
from bench.reference_elder import ReferenceElder, in_scope
from bench.timing import Figure, in_lockstep, interleaved, paired_ratio, step_ratio
from elder.base import Base
from elder.editors.mixture.elder import ElderEditor
from elder.editors.mixture.elder_options import ElderOptions
from elder.editors.mixture.elder_plus import ElderPlusEditor
from elder.editors.mixture.elder_plus_options import ElderPlusOptions
from elder.mixture.codes import CodeStore
from elder.mixture.keys import KeyMemory


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    edit_rounds: int = 4
    steps: int = 50
    generate_rounds: int = 21
    together_rounds: int = 9
    new_tokens: int = 24
    batches: tuple[int, ...] = (1, 8)
    lookup_rounds: int = 15
    lookup_calls: int = 200
    stored: tuple[int, int] = (10**3, 10**6)
    keyed: tuple[int, ...] = (10**2, 10**3, 10**4)


FULL = Effort()
QUICK = Effort(
    edit_rounds=2,
    steps=4,
    generate_rounds=2,
    together_rounds=2,
    new_tokens=4,
    batches=(2,),
    lookup_rounds=3,
    lookup_calls=10,
    stored=(10**2, 10**3),
    keyed=(10, 20),
)
Clock = Callable[[], float]


def editing(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Edits a second of both methods against the reference; the same batches of edits for all."""
    plain = ElderOptions(steps=effort.steps)
    same = ElderPlusOptions(  # as many rows and steps as ELDER: nothing replayed, no prefixes, no early or late end
        steps=effort.steps, batch_size=plain.batch_size, prefixes=0, replay=0, extra_steps=0, learnt_below=0.0
    )
    usual = ElderPlusOptions(steps=effort.steps)
    ours = ElderEditor(base, plain)
    reference = ReferenceElder(ours)
    plus, full = ElderPlusEditor(base, same), ElderPlusEditor(base, usual)
    rounds, small, large = effort.edit_rounds, plain.batch_size, usual.batch_size
    edits = make_edits((rounds + 1) * large, shape)

    def batch(size: int) -> Callable[[int], Any]:
        return lambda turn: edits[turn * size : (turn + 1) * size]

    few, many = batch(small), batch(large)
    times = interleaved(
        {
            "reference": lambda turn: reference.edit(few(turn)),
            "elder": lambda turn: ours.edit(few(turn)),
            "plus": lambda turn: plus.edit(few(turn)),
            "full": lambda turn: full.edit(many(turn)),
        },
        rounds,
        now,
    )
    speed = {name: (large if name == "full" else small) / statistics.median(t) for name, t in times.items()}
    for name, label, target in (
        ("elder", "edit: elder", 3.0),
        ("plus", "edit: elder-plus, same rows and steps", None),
        ("full", "edit: elder-plus, its defaults (replay, more rows)", None),
    ):
        size = large / small if name == "full" else 1.0
        ratio = paired_ratio(times, "reference", name) * size
        yield Figure(f"{label} / reference", speed[name], speed["reference"], "edits/s", ratio, target, at_least=True)


def generation(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Time of greedy generation with an adapter attached, divided by the base model's on the same prompts."""
    steps = min(effort.steps, 10)  # what was learnt does not matter to the time
    # gates so tight that only what was trained is in scope: the random model gives calibration nothing to hold on to
    tight = ElderPlusOptions(steps=steps, extra_steps=0, subject_threshold=0.95, answer_threshold=0.95)
    editors = {
        "elder": ElderEditor(base, ElderOptions(steps=steps, epsilon=2)),
        "elder-plus": ElderPlusEditor(base, tight),
    }
    edits = make_edits(12, shape, seed=1)
    for method, editor in editors.items():
        editor.edit(edits)
        trained = [prompt for edit in edits for prompt in edit.training_prompts]
        for inside, prompts, bound in ((False, make_prompts(400, shape), 1.02), (True, trained, 1.06)):
            for size in effort.batches:
                inputs = _in_scope(base, editor, prompts, inside, size)
                yield _generated(base, editor, f"generate: {method}", inputs, inside, bound, effort, now)


def _in_scope(base: Base, editor: Any, prompts: list[str], inside: bool, count: int) -> dict[str, Tensor]:
    """A batch of `count` prompts that are all in scope, or all out of it."""
    everything = batch_of(base, prompts)
    flags = editor.in_scope(**everything).tolist()
    found = [prompt for prompt, flag in zip(prompts, flags, strict=True) if flag is inside][:count]
    if len(found) < count:
        raise RuntimeError(
            f"{editor.method}: {len(found)} of {len(prompts)} prompts are {'in' if inside else 'out of'} scope"
        )
    inputs = batch_of(base, found)
    if editor.in_scope(**inputs).tolist() != [inside] * count:
        raise RuntimeError(f"{editor.method}: the scope of a prompt depends on its batch")
    return inputs


def _generated(
    base: Base,
    editor: Any,
    name: str,
    inputs: dict[str, Tensor],
    inside: bool,
    bound: float,
    effort: Effort,
    now: Clock,
) -> Figure:
    new = effort.new_tokens
    settings = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "use_cache": True}
    outputs: dict[str, Tensor] = {}

    def run(which: str, model: Any) -> Callable[[Callable[[], None]], object]:
        return lambda step: outputs.__setitem__(
            which, model.generate(**inputs, **settings, stopping_criteria=[_AfterEveryToken(step)])
        )

    programs = {"ours": run("ours", editor.model), "base": run("base", base.model)}
    times = in_lockstep(programs, effort.generate_rounds, now)
    if not inside and not torch.equal(outputs["ours"], outputs["base"]):
        raise RuntimeError(f"{name}: an answer out of scope differs from the base model's")
    speed = {who: statistics.median(sum(steps) for steps in t) / new * 1000 for who, t in times.items()}
    label = f"{name}, {'in' if inside else 'out of'} scope, batch {len(inputs['input_ids'])} / base"
    return Figure(label, speed["ours"], speed["base"], "ms/token", step_ratio(times, "ours", "base"), bound)


class _AfterEveryToken(StoppingCriteria):
    """Never ends a generation; calls a function after every token."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.step()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def lookup(effort: Effort, now: Clock) -> Iterator[Figure]:
    """Time of deferral after few and after many stored edits."""
    few, many = effort.stored
    stores = {count: _filled(CodeStore(6, 4, 2, torch.device("cpu")), count) for count in effort.stored}
    for size in effort.batches:
        queries = random_codes(size, 6, 4, 2, seed=7)
        yield _compared(
            f"look-up: codes, {many:,} / {few:,} stored, batch {size}",
            lambda count, q=queries: stores[count].nearest(q),
            few,
            many,
            effort,
            now,
            1.5,
        )
    queries = random_codes(1, 6, 4, 2, seed=7)
    lists = {
        count: list(random_codes(count, 6, 4, 2, seed=count).flatten(1).int().split(4)) for count in (few, 10 * few)
    }
    short = replace(effort, lookup_calls=max(1, effort.lookup_calls // 20))
    query = queries.flatten(1).int()
    yield _compared(
        f"look-up: the reference's list, {10 * few:,} / {few:,} stored",
        lambda count: in_scope(query, lists[count], 12),
        few,
        10 * few,
        short,
        now,
        None,
    )
    memories = {count: _memory(count) for count in effort.keyed}
    generator = torch.Generator().manual_seed(3)
    states, last = torch.randn(8, 32, 512, generator=generator), torch.randn(8, 512, generator=generator)
    prompt = torch.ones(8, 32, dtype=torch.bool)
    once = replace(effort, lookup_calls=1, lookup_rounds=min(effort.lookup_rounds, 5))
    for less, more in zip(effort.keyed, effort.keyed[1:], strict=False):
        yield _compared(
            f"look-up: keys of elder-plus, {more:,} / {less:,} edits, batch 8",
            lambda count: memories[count].match(states, prompt, last, 0.9, 0.9),
            less,
            more,
            once,
            now,
            None,
        )


def _compared(
    name: str, call: Callable[[int], object], few: int, many: int, effort: Effort, now: Clock, bound: float | None
) -> Figure:
    def calls(count: int) -> Callable[[int], None]:
        def run(_: int) -> None:
            for _ in range(effort.lookup_calls):
                call(count)

        return run

    times = interleaved({"few": calls(few), "many": calls(many)}, effort.lookup_rounds, now)
    scale = 1e6 / effort.lookup_calls
    ours, other = (statistics.median(times[name]) * scale for name in ("many", "few"))
    return Figure(name, ours, other, "us/call", paired_ratio(times, "many", "few"), bound)


def random_codes(count: int, layers: int, experts: int, top_k: int, seed: int) -> Tensor:
    """(count, L, N) bool with k ones in each layer."""
    scores = torch.rand(count, layers, experts, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(scores.shape, dtype=torch.bool).scatter(-1, scores.topk(top_k, dim=-1).indices, True)


def _filled(store: CodeStore, count: int) -> CodeStore:
    store.add(random_codes(count, store.layers, store.experts, store.top_k, seed=count))
    return store


def _memory(edits: int) -> KeyMemory:
    """A key memory of that many edits with random keys, of the default shape for a model of width 512."""
    memory = KeyMemory(512, 256, subject_tokens=8, sources=4, seed=0, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(edits)
    for begin in range(0, edits, 1000):
        count = min(1000, edits - begin)
        subject = torch.nn.functional.normalize(torch.randn(count, 4, 8, 256, generator=generator), dim=-1)
        answer = torch.nn.functional.normalize(torch.randn(count, 4, 256, generator=generator), dim=-1)
        memory.add(subject, torch.ones(count, 4, 8, dtype=torch.bool), answer)
    return memory
