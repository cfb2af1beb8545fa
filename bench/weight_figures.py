"""The four groups of figures about the weight editors: values, solves, statistics, cost over a stream."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.model import SPECIAL, Shape
from bench.reference_values import PlainValues
from bench.timing import Figure, interleaved, paired_ratio
from elder.base import Base
from elder.edit import Edit
from elder.editors.weights.locate import LocateEditor
from elder.editors.weights.memit import MemitEditor
from elder.editors.weights.memit_options import MemitOptions
from elder.forward.upper import ValueRow
from elder.registry import editor_class, make_options
from elder.solvers.key_covariance import KeyCovariance
from elder.solvers.moments import SecondMoment
from elder.solvers.ridge import ridge_gain
from elder.state import pack_json, unpack_json
from elder.targets.requests import essence_row, prompt_row, rewriting_row
from elder.targets.statistics import Windows, collect_moments, cut_windows
from elder.targets.values import ValueOptions, find_values
from elder.tokens import pad_id

Clock = Callable[[], float]
LAYERS = (4, 5, 6, 7, 8)  # EasyEdit's for Llama-2-7B
ALIKE = 1e-4  # how far values found in different batches may lie apart, as a share of their length


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    edits: int = 64
    steps: int = 25
    value_rounds: int = 2
    alone: int = 4  # edits that are found one at a time in a round
    solve_width: int = 11008
    solve_keys: int = 100
    solve_rounds: int = 2
    text_tokens: int = 4096
    text_rounds: int = 2
    layers: tuple[int, ...] = LAYERS
    stream_batch: int = 10
    stream_steps: int = 8  # less than the default, so that writing weighs more
    stored: tuple[int, int] = (10, 5000)
    stream_rounds: int = 3


FULL = Effort()
QUICK = Effort(
    edits=4,
    steps=4,
    value_rounds=1,
    alone=2,
    solve_width=300,
    solve_keys=10,
    solve_rounds=1,
    text_tokens=600,
    text_rounds=1,
    layers=(2, 3, 4),
    stream_batch=2,
    stream_steps=4,
    stored=(4, 40),
    stream_rounds=2,
)

# The editors whose batches must cost the same after many edits, and the options they are measured with.
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "memit": {"cache": True, "ridge": 1.0},
    "alphaedit": {"threshold": 0.5, "relative": True, "ridge": 1.0},
    "ultraedit": {},
}


def make_edits(count: int, shape: Shape, seed: int = 0) -> list[Edit]:
    """Edits of random words, as long as CounterFact's: some words, a subject of three, some words; two-word answers."""
    rng = random.Random(f"bench/weights/{seed}")

    def words(number: int) -> str:
        return " ".join(f"w{rng.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(number))

    edits = []
    for _ in range(count):
        subject = words(3)
        edits.append(
            Edit(f"{words(rng.randint(1, 4))} {subject} {words(rng.randint(2, 6))}", words(2), subject=subject)
        )
    return edits


def values(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Edits a second of the value optimisation: all at once, one at a time, and the plain formulation.

    Raises:
        RuntimeError: The three do not find the same values.
    """
    editor = MemitEditor(base, MemitOptions(layers=effort.layers[-1:], steps=effort.steps))
    edits = make_edits(effort.edits, shape)
    rows, starts = _requests(editor, edits)
    options = ValueOptions(steps=effort.steps, stop=0.0)  # nobody stops early: all do the same work
    plain = PlainValues(base.model, effort.layers[-1], pad_id(base.tokenizer))
    found: dict[str, Tensor] = {}

    def ours(_: int) -> None:
        found["ours"] = find_values(
            editor._upper, rows, starts, options, base.runtime, editor.options.value_batch
        ).change

    def alone(_: int) -> None:
        one = [
            find_values(editor._upper, [own], start[None], options, base.runtime, 1).change
            for own, start in zip(rows[: effort.alone], starts[: effort.alone], strict=True)
        ]
        found["alone"] = torch.cat(one)

    def reference(_: int) -> None:
        found["reference"] = plain.find(rows[: effort.alone], starts[: effort.alone], options)

    times = interleaved({"ours": ours, "alone": alone, "reference": reference}, effort.value_rounds, now, warm_up=0)
    for other in ("alone", "reference"):
        mine = found["ours"][: effort.alone]
        apart = float(((found[other] - mine).norm(dim=1) / mine.norm(dim=1)).max())
        if apart > ALIKE:
            raise RuntimeError(f"values found at once and by '{other}' lie {apart:.2g} apart")
    count = {"ours": effort.edits, "alone": effort.alone, "reference": effort.alone}
    speed = {name: count[name] / statistics.median(t) for name, t in times.items()}
    for other, label, target in (
        ("reference", "one at a time, as published", 4.0),
        ("alone", "one at a time, prefixes reused", None),
    ):
        ratio = paired_ratio(times, other, "ours") * effort.edits / count[other]
        name = f"values: {effort.edits} edits at once / {label}"
        yield Figure(name, speed["ours"], speed[other], "edits/s", ratio, target, at_least=True)


def _requests(editor: LocateEditor, edits: list[Edit]) -> tuple[list[list[ValueRow]], Tensor]:
    """What MEMIT optimises for these edits: six rewriting rows and one that must not change; and where they start."""
    tokenizer, last = editor.base.tokenizer, editor.layers[-1]
    texts = editor.contexts().texts
    bare = [prompt_row(tokenizer, i, edit, "{}") for i, edit in enumerate(edits)]
    rows = [
        [rewriting_row(tokenizer, i, edit, text) for text in texts] + [essence_row(tokenizer, i, edit, False)]
        for i, edit in enumerate(edits)
    ]
    return rows, editor._observer.look(bare, last).hidden


def solves(effort: Effort, now: Clock) -> Iterator[Figure]:
    """Seconds of the update of some keys by n x n and by m x m, with the identity and with a factored prior.

    Raises:
        RuntimeError: The two forms do not agree.
    """
    m, n = effort.solve_width, effort.solve_keys
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(m, n, generator=generator, dtype=torch.float64)
    yield _both_forms("identity", keys, KeyCovariance(None, m), effort, now, 20.0)
    mixing = torch.randn(m, 64, generator=generator, dtype=torch.float64)
    prior = KeyCovariance(mixing @ mixing.mT / 64 + torch.eye(m, dtype=torch.float64))
    begin = now()
    assert prior.factor.shape == (m, m)
    seconds = now() - begin
    yield Figure(f"solve: factoring the prior once, width {m}", seconds, seconds, "s", 1.0)
    yield _both_forms("factored prior", keys, prior, effort, now, 20.0)


def _both_forms(label: str, keys: Tensor, prior: KeyCovariance, effort: Effort, now: Clock, target: float) -> Figure:
    m, n = keys.shape
    times: dict[str, list[float]] = {"dual": [], "primal": []}
    for _ in range(effort.solve_rounds):
        gains = {}
        for form in ("dual", "primal"):
            begin = now()
            gains[form] = ridge_gain(keys, prior, 10.0, form)  # type: ignore[arg-type]
            times[form].append(now() - begin)
        apart = float((gains["dual"] - gains["primal"]).norm() / gains["primal"].norm())
        if apart > 1e-8:
            raise RuntimeError(f"dual and primal lie {apart:.2g} apart")
    seconds = {form: statistics.median(t) for form, t in times.items()}
    name = f"solve: primal / dual, {n} keys, width {m}, {label}"
    return Figure(name, seconds["dual"], seconds["primal"], "s", paired_ratio(times, "primal", "dual"), target, True)


def second_moments(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Seconds of the statistics of some blocks in one pass over a text, and in a pass for each.

    Raises:
        RuntimeError: They do not agree to the bit.
    """
    windows = make_text(base, shape, effort.text_tokens)
    found: dict[str, dict[int, SecondMoment]] = {}

    def once(_: int) -> None:
        found["once"] = collect_moments(base, windows, effort.layers)

    def each(_: int) -> None:
        found["each"] = {layer: collect_moments(base, windows, (layer,))[layer] for layer in effort.layers}

    times = interleaved({"once": once, "each": each}, effort.text_rounds, now)
    for layer in effort.layers:
        if not torch.equal(found["once"][layer].total, found["each"][layer].total):
            raise RuntimeError(f"the statistics of block {layer} differ")
    speed = {name: windows.tokens / statistics.median(t) for name, t in times.items()}
    label = f"statistics: blocks {effort.layers[0]} to {effort.layers[-1]}, one pass / a pass a block"
    yield Figure(label, speed["once"], speed["each"], "tokens/s", paired_ratio(times, "each", "once"), 3.0, True)


def make_text(base: Base, shape: Shape, tokens: int) -> Windows:
    """Random words, in rows of 128 tokens."""
    rng = random.Random("bench/text")
    texts = [" ".join(f"w{rng.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(128)) for _ in range(1 << 10)]
    return cut_windows(base.tokenizer, texts, 128, tokens)


def stream(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Seconds of one batch after few and after many edits, for each method of `STREAMS`."""
    moments = collect_moments(base, make_text(base, shape, effort.text_tokens), effort.layers)
    for method, options in STREAMS.items():
        for steps, label, target in ((effort.stream_steps, "a batch", 1.1), (1, "its writing alone", None)):
            common: dict[str, Any] = {"layers": effort.layers, "batch_size": effort.stream_batch}
            if method != "ultraedit":  # it looks for no values
                common |= {"steps": steps, "stop": 0.0}
            elif steps == 1:
                continue
            editors = {}
            for count in effort.stored:
                editor = editor_class(method)(base, make_options(method, {**common, **options}))
                if isinstance(editor, LocateEditor):
                    editor.statistics = dict(moments)
                else:
                    editor.edit(make_edits(effort.stream_batch, shape, seed=9))  # its own statistics begin
                editors[count] = _after(editor, count)
            yield _compared(f"stream: {label}, {method}", editors, shape, effort, now, target)


def _compared(
    name: str, editors: Mapping[int, Any], shape: Shape, effort: Effort, now: Clock, target: float | None
) -> Figure:
    few, many = effort.stored
    size, rounds = effort.stream_batch, effort.stream_rounds
    edits = make_edits((rounds + 1) * size, shape, seed=few)

    def batch(count: int) -> Callable[[int], object]:
        return lambda turn: editors[count].edit(edits[turn * size : (turn + 1) * size])

    times = interleaved({"few": batch(few), "many": batch(many)}, rounds, now)  # the first batch sets solvers up
    for count in effort.stored:
        if editors[count].edits_applied != count + (rounds + 1) * size:
            raise RuntimeError(f"{name}: {editors[count].edits_applied} edits are applied")
    seconds = {who: statistics.median(t) for who, t in times.items()}
    label = f"{name}, after {many:,} / {few:,} edits"
    return Figure(label, seconds["many"], seconds["few"], "s", paired_ratio(times, "many", "few"), target)


def _after(editor: Any, count: int) -> Any:
    """An editor as it is after so many edits: random keys are remembered, the weights' change is nothing.

    The earlier edits are not made but loaded, by `load_state_dict`; what they cost to a later batch is the same.
    """
    one = editor.options.batch_size
    sizes = [one] * (count // one)  # batches as they would have come
    generator = torch.Generator().manual_seed(count)
    located = isinstance(editor, LocateEditor)
    state = editor.state_dict()
    for name, tensor in state.items():
        if name.endswith(".left"):
            state[name] = torch.zeros(len(tensor), count)
        elif name.endswith(".right") or name.startswith("memory."):
            state[name] = torch.randn(count, tensor.shape[1], generator=generator)
        elif name.startswith("statistics."):  # one row a batch
            state[name] = tensor[-1:].repeat_interleave(len(sizes), 0)
            if name.endswith(".count"):
                state[name] += torch.arange(len(sizes))
    cursor = unpack_json(state["cursor"])
    cursor |= {"edits": count, "batches": len(sizes), "sizes": dict.fromkeys(cursor["sizes"], sizes)}
    if "ends" in cursor:
        cursor["ends"] = list(range(one, count + 1, one))
    if located:
        cursor["contexts"] = [list(group) for group in editor.contexts().groups]
    state["cursor"] = pack_json(cursor)
    editor.load_state_dict(state)
    return editor
