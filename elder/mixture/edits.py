"""The edits of a mixture method as a part of the model that they change: routing and correction, pass by pass.

Nothing here remembers a pass: what a pass is doing belongs to the thread that runs it, what has been decided about a
sequence belongs to its cache. What has been learnt is one immutable `Version`, which a pass takes once and keeps.
Knows nothing of training, files or editors.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from elder.device import run_eagerly
from elder.errors import ModelError
from elder.mixture.answer_bias import leaning
from elder.mixture.arguments import cache_in, positions_of, real_of, tokens_of
from elder.mixture.asking import answered, as_kept, second_run, see_ends, without_asked
from elder.mixture.cached import CacheRecord, attach_record, record_of
from elder.mixture.deferral import Prompts
from elder.mixture.paged import begin_line, corrected_spans, decide_line, line_of, note_line
from elder.mixture.pass_info import Groups, Pass, Version, moved
from elder.mixture.prompt_end import NAMES, PromptEnds, given_ends
from elder.mixture.rewind import rewound, trimmed
from elder.mixture.route import Plan, Routes, Span, plan_of
from elder.runtime import Runtime
from elder.scoped import Scoped, eager

FAR_BETTER = 0.5  # share of the distance to a stored key that an earlier end of the prompt may have


class MixtureEdits:
    """Routes and corrects the passes of the models that it is attached to.

    Args:
        version: The first version.
        embed: The token embeddings of the model.
        stops: Ids that end an answer; an answer that is looked for in a text does not reach over one.
        subject_layer: Where subject keys are taken; 0: the token embeddings.
        summary: One line about method and model, for people.
        head: Makes logits of last hidden states; None: the base is never asked.
        runtime: The ranks that hold the model together, if they do: all of them run a pass again, or none.
    """

    def __init__(
        self,
        version: Version,
        embed: nn.Module,
        stops: frozenset[int],
        subject_layer: int,
        summary: str,
        head: nn.Module | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.head, self.runtime = head, runtime
        self.version, self.embed, self.stops, self.subject_layer = version, embed, stops, subject_layer
        self.summary = summary
        self.identity = uuid.uuid4().hex
        self._pass: Scoped[Pass | None] = Scoped(None)
        self._placed: Scoped[Tensor | None] = Scoped(None)

    # ---- for callers --------------------------------------------------------------------------------------------

    def publish(self, version: Version, same_stream: bool = True) -> None:
        """Answer with another version from the next pass on.

        Args:
            version: Complete; not changed afterwards.
            same_stream: It continues the present one, so that sequences in flight keep their routes.
        """
        self.version = version
        if not same_stream:
            self.identity = uuid.uuid4().hex

    def to(self, device: torch.device) -> None:
        """Move what has been learnt to a device; number formats stay."""
        self.version = moved(self.version, device)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Passes of this thread or task are the base model's inside the block."""
        with self._pass.holding(Pass(self.version, fixed=True)):
            yield

    @contextmanager
    def imposing(self, plan: Plan, groups: Groups) -> Iterator[None]:
        """Passes of this thread use the given plan and low-rank maps inside the block (training)."""
        version = replace(self.version, groups=groups)
        with self._pass.holding(Pass(version, plan=plan, fixed=True)):
            yield

    @contextmanager
    def placed(self, columns: Tensor) -> Iterator[None]:
        """The prompts of the passes inside the block end at the given columns, (B,), cached tokens included."""
        with self._placed.holding(columns):
            yield

    @contextmanager
    def probing(self, kwargs: dict[str, Any]) -> Iterator[Pass]:
        """A pass with these arguments, for reading its routes after the part of a model up to the tap has run."""
        run = self.begin(dict(kwargs))
        with self._pass.holding(run):
            yield run

    @property
    def off(self) -> bool:
        """Whether passes of this thread or task are the base model's (`disabled`)."""
        held = self._pass.get()
        return held is not None and held.fixed and held.plan is None

    @property
    def count(self) -> int:
        """See `Edits.count`."""
        return self.version.count

    def running(self) -> bool:
        """See `Edits.running`."""
        return self._pass.get() is not None

    def request(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """See `Edits.request`: a cache that another model filled does not show its tokens, so they are read again."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, Cache) or not int(cache.get_seq_length()):
            return kwargs
        record = record_of(cache, self.identity)
        if record is not None and record.columns == int(cache.get_seq_length()):
            return kwargs
        tokens = next((t for n in ("inputs", "input_ids", "inputs_embeds") if (t := kwargs.get(n)) is not None), None)
        mask = kwargs.get("attention_mask")
        if tokens is None or (mask is not None and mask.shape[1] != tokens.shape[1]):
            return kwargs
        if tokens.shape[1] > int(cache.get_seq_length()):
            cache.reset()  # type: ignore[no-untyped-call]
        return kwargs

    def batching(self, config: Any) -> None:
        """See `Edits.batching`.

        Blocks are not shared, since what was corrected belongs to one request; passes are routed by Python code, which
        neither graphs nor compiled steps would run again; requests are recognised by slots, not by tables of blocks.
        """
        config.allow_block_sharing = False
        config.max_blocks_per_request = 0
        run_eagerly(config)
        config.cpu_offload_space = 0.0

    def merged(self, model: nn.Module) -> Mapping[str, Tensor]:
        """See `Edits.merged`.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "an edited model of this method cannot be saved as a model directory: its edits act on the inputs they "
            "are about and leave others alone, which no weights can do. Save the adapter (editor.save(DIR), "
            "elder.load_edited(DIR)); a weight editor such as memit can be merged (elder export)"
        )

    def forward(self, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Run the forward of the model, with the edits active."""
        held = self._pass.get()
        if held is not None and held.fixed:
            return call(**{name: value for name, value in kwargs.items() if name not in NAMES})
        run = self.begin(kwargs)
        with self._pass.holding(run):
            output = call(**run.kwargs)
            again = self.ask(run, output) if run.asking is not None or self.runtime is not None else None
            if again is not None:
                low = run.low
                output = call(**again)
                run.low = run.low if low is None or run.low is None or len(run.low[0]) > len(low[0]) else low
        return self.finish(run, output)

    # ---- a pass -------------------------------------------------------------------------------------------------

    @eager
    def begin(self, kwargs: dict[str, Any]) -> Pass:
        """The pass with these arguments, as far as it is known before it runs.

        Raises:
            ValueError: There are no tokens, or the ends of prompts are those of another number of rows.
        """
        tokens, version = tokens_of(kwargs), self.version
        line = line_of(kwargs, self.identity)
        if line is not None:
            return begin_line(Pass(version, kwargs, tokens, line=line), line)
        batch, length = tokens.shape[:2]
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
        record = record_of(cache, self.identity) if past else None
        if record is not None and (record.columns != past or len(record) != batch):
            record = None
        given = given_ends(kwargs, self._placed.get(), batch, past, length)
        run = Pass(version, kwargs, tokens, record=record, past=past, open=given is None)
        run.real = real_of(kwargs.get("attention_mask"), given, past, length)
        if record is not None and record.settled and (length == 1 if given is None else given.furthest < past):
            run.routes, run.starts = record.routes, record.starts
            run.plan = record.step() if length == 1 else plan_of(record.routes, record.spans(length), batch * length)
            return run
        return self._decide_later(run, given)

    @eager
    def ask(self, run: Pass, output: Any) -> dict[str, Any] | None:
        """The arguments of a second run with the correction, if there is one; collective where the model is sharded."""
        agreed = False
        if run.asking is not None and self.head is not None:
            rows = run.asking[0]
            if run.line is None:
                assert run.ends is not None
                columns = run.ends.to(rows.device)[rows]
            else:
                spans = run.line.spans
                columns = torch.tensor(
                    [spans[r].begin + spans[r].length - 1 for r in rows.tolist()], device=rows.device
                )
            agreed = answered(run, output, columns, self.head)
        if not self._on_any_rank(agreed):
            return None
        kwargs, spans_ = second_run(run, cache_in(output), self.embed, lambda begin: self._spans(run, begin))
        assert run.routes is not None
        assert run.tokens is not None
        size = spans_[-1].begin + spans_[-1].length if run.line is None else run.tokens.shape[1]
        run.plan = plan_of(run.routes, spans_, size)
        return kwargs

    def any_asks(self, run: Pass) -> bool:
        """Whether a pass, on any of the ranks that hold the model together, has rows that the base is asked about."""
        return self._on_any_rank(run.asking is not None)

    def _on_any_rank(self, here: bool) -> bool:
        if self.runtime is None or not self.version.deferral.may_ask:  # the same on all ranks
            return here
        return bool(self.runtime.sum(torch.tensor([float(here)], device=self.runtime.device)) > 0)

    @eager
    def finish(self, run: Pass, output: Any) -> Any:
        """Note in the cache of an output what has been decided; returns the output."""
        if run.line is not None:
            note_line(run, run.line, self.identity)
            return output
        cache = cache_in(output)
        if cache is not None and run.tokens is not None:
            self._note(run, cache)
        output = as_kept(run, output)
        if run.again:
            assert run.tokens is not None
            return trimmed(output, run.again, run.tokens.shape[1])
        return output

    # ---- for the hooks (`elder.mixture.attach.Steering`) ----------------------------------------------------------

    def planned(self) -> tuple[Plan, Sequence[Sequence[nn.Module]]] | None:
        """See `Steering.planned`."""
        run = self._pass.get()
        return None if run is None or run.plan is None else (run.plan, run.version.groups)

    def seen_low(self, states: Tensor) -> None:
        """See `Steering.seen_low`."""
        run = self._pass.get()
        if run is not None and not run.fixed and run.version.deferral.reads_subject:
            run.low = states.detach()

    def tapped(self, states: Tensor) -> None:
        """See `Steering.tapped`."""
        run = self._pass.get()
        if run is not None and run.due:
            run.due = False
            if run.line is None:
                self._decide(run, states.detach())  # a decision has no gradient, and keeps no graph alive
            else:
                decide_line(run, run.line, states.detach())

    def leaning(self, logits: Tensor) -> Tensor:
        """See `Steering.leaning`."""
        run = self._pass.get()
        return logits if run is None else leaning(run, logits, self._embedded)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _embedded(self, ids: Tensor) -> Tensor:
        """The embeddings of ids that are no part of the pass that runs."""
        with self._pass.holding(None):
            found: Tensor = self.embed(ids)
        return found

    def _decide_later(self, run: Pass, given: PromptEnds | None) -> Pass:
        """Prepare a pass in which rows may have to be routed; reads tokens again where that is needed."""
        assert run.tokens is not None
        ends = run.prompt_ends(given)
        batch, length = run.tokens.shape[:2]
        layers, experts = run.version.shape
        device = run.tokens.device
        record = run.record
        decided = torch.zeros(batch, dtype=torch.bool, device=device) if record is None else record.ends >= 0
        routes = Routes.none(batch, layers, experts, device) if record is None else record.routes
        deciding = (ends < run.past + length) & ((ends >= run.past) | ~decided)
        if record is not None and bool(deciding.any()):
            begin = 0 if run.version.deferral.whole else record.edited_from()
            if begin < run.past:
                return self._decide_later(self._again(run, record, begin, given), given)
        waiting = ends >= run.past + length
        if bool(waiting.any()):
            nowhere = Routes.none(batch, layers, experts, device)
            rows = waiting.nonzero()[:, 0]
            routes = routes.put(rows, nowhere.at(rows))
        run.routes = routes
        run.starts = torch.zeros(batch, dtype=torch.long, device=device) if record is None else record.starts
        run.deciding = tuple(deciding.nonzero()[:, 0].tolist())
        run.ends = (ends - run.past).clamp(min=0)
        run.due = bool(run.deciding)
        if run.tokens.is_floating_point() and self.subject_layer == 0:
            run.low = run.tokens.detach()
        if run.due and self.head is not None:
            anywhere = run.open and run.version.deferral.answer_tokens and length > 1  # see `_look_back`
            see_ends(run, range(length) if anywhere else run.ends.tolist())
        if not run.due and record is not None:
            run.plan = plan_of(routes, record.spans(length), batch * length)
        return run

    def _again(self, run: Pass, record: CacheRecord, begin: int, given: PromptEnds | None) -> Pass:
        """The same pass, with the cached tokens from column `begin` on read once more."""
        kwargs, begin = rewound(run.kwargs, record, begin, self.embed)
        fresh = Pass(run.version, kwargs, tokens_of(kwargs), past=begin, again=run.past - begin + run.again)
        fresh.open, fresh.record = run.open, record if begin else None
        fresh.real = real_of(kwargs.get("attention_mask"), given, begin, tokens_of(kwargs).shape[1])
        return fresh

    def _decide(self, run: Pass, states: Tensor) -> None:
        """Route the rows that are due, from the tap's input (B, T, Q)."""
        assert run.tokens is not None
        assert run.ends is not None
        assert run.routes is not None
        assert run.starts is not None
        batch, length = run.tokens.shape[:2]
        deferral, device = run.version.deferral, states.device
        rows = torch.tensor(run.deciding, device=device)
        ends = run.ends.to(device)[rows]
        found = Routes.none(len(rows), *run.version.shape, device)
        if len(deferral):
            found = deferral.decide(self._prompts(run, states, rows, ends))
            if run.open and deferral.answer_tokens and length > 1:
                found, ends = self._look_back(run, states, rows, ends, found)
        if run.real is not None:  # padding between a prompt and what is generated after it takes no share of the answer
            padding = ~run.real.to(device)[rows] & (torch.arange(length, device=device) > ends[:, None])
            found = replace(found, length=found.length + padding.sum(1) * (found.length > 0))
        run.routes = run.routes.put(rows, without_asked(run, rows, found) if self.head is not None else found)
        local = torch.zeros_like(ends) if deferral.whole else ends
        run.starts = run.starts.index_copy(0, rows, local + run.past)
        run.ends = run.ends.to(device).index_copy(0, rows, ends)
        run.plan = plan_of(run.routes, self._spans(run), batch * length)

    def _spans(self, run: Pass, begin: int = 0) -> list[Span]:
        """The places of the new tokens of each row from a column on, when all rows are routed."""
        if run.line is not None:
            return corrected_spans(run, run.line)
        assert run.tokens is not None
        assert run.routes is not None
        length, ends = run.tokens.shape[1] - begin, run.ended()
        rows = torch.tensor(run.deciding, dtype=torch.long)
        first = torch.zeros_like(ends) if run.version.deferral.whole else ends
        starts = torch.zeros_like(ends).index_copy(0, rows, first[rows])
        places = zip(
            (starts - begin).clamp(min=0).tolist(), (ends + run.routes.length.cpu() - begin).tolist(), strict=True
        )
        return [Span(b * length, length, start, max(0, stop)) for b, (start, stop) in enumerate(places)]

    def _prompts(self, run: Pass, states: Tensor, rows: Tensor, ends: Tensor) -> Prompts:
        """The prompts of some rows, (K,), when they end at the new tokens `ends`, (K,)."""
        last = states[rows, ends]
        length = states.shape[1]
        real = torch.arange(length, device=states.device)[None] <= ends[:, None]
        real = real if run.real is None else real & run.real.to(states.device)[rows]
        if not run.version.deferral.reads_subject:
            return Prompts(last, None, real)
        assert run.low is not None
        assert run.tokens is not None
        low = run.low if len(rows) == len(run.low) else run.low[rows]
        ids = None if run.tokens.is_floating_point() else run.tokens.to(states.device)[rows]
        if run.past and run.record is not None:
            before = run.record.content(0)
            if before.low is not None:
                low = torch.cat([before.low[rows], low], dim=1)
                real = torch.cat([before.mask()[rows], real], dim=1)
                if ids is not None:
                    known = before.tokens.to(states.device)[rows]
                    ids = None if known.is_floating_point() else torch.cat([known, ids], dim=1)
        return Prompts(last, low, real, ids)

    def _look_back(self, run: Pass, states: Tensor, rows: Tensor, ends: Tensor, found: Routes) -> tuple[Routes, Tensor]:
        """Rows of a text of unknown parts may hold a prompt and its answer: look for the end of the prompt.

        Looked at are the tokens before the last one, as far back as answers are long and without going over the end of
        a line or of a sequence. The best match counts; one before the last token only if it is far better than that.
        """
        assert run.tokens is not None
        deferral = run.version.deferral
        far = 1 - found.score[:, 1]
        best = torch.where(found.inside, FAR_BETTER * far, torch.inf)
        left = deferral.named(self._prompts(run, states, rows, ends)).nonzero()[:, 0]
        last = ends
        for back in range(1, deferral.answer_tokens + 1):
            places = last[left] - back
            left = left[(places >= 0) & ~self._stopped(run.tokens, rows[left], places + 1)]
            if not len(left):
                break
            places = last[left] - back
            routes = deferral.decide(self._prompts(run, states, rows[left], places))
            better = (routes.inside & (1 - routes.score[:, 1] < best[left])).nonzero()[:, 0]
            found = found.put(left[better], routes.at(better))
            ends = ends.index_copy(0, left[better], places[better])
            best = best.index_copy(0, left[better], 1 - routes.score[better, 1])
        return found, ends

    def _stopped(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """(K,) bool: whether the token of a row at a place ends an answer."""
        if tokens.is_floating_point() or not self.stops:
            return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        here = tokens[rows.to(tokens.device), places.clamp(min=0).to(tokens.device)].tolist()
        return torch.tensor([token in self.stops for token in here], dtype=torch.bool, device=rows.device)

    def _note(self, run: Pass, cache: Cache) -> None:
        assert run.tokens is not None
        assert run.routes is not None
        assert run.starts is not None
        record = run.record
        if record is None:
            record = CacheRecord(self.identity, run.routes, run.tokens.device)
        tokens = run.tokens.detach()
        if tokens.is_floating_point() and not record.embedded:
            record.embed(self.embed)
        elif record.embedded and not tokens.is_floating_point():
            tokens = self.embed(tokens).detach()
        record.extend(tokens, run.real, positions_of(run.kwargs, tokens.shape[1]), run.low)
        if run.deciding or run.record is None:
            ends = record.ends.clone()
            if run.deciding:
                assert run.ends is not None
                rows = torch.tensor(run.deciding, device=ends.device)
                ends[rows] = run.ends.to(ends.device)[rows] + run.past
            record.route(run.routes, run.starts, ends)
        attach_record(cache, record)
