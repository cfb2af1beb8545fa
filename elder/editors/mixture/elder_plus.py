"""Our ELDER: the same mixture of LoRAs, with a memory that does not fade and a gate that distinguishes edits.

Differences from the paper, each switchable (docs/elder_plus.md has the measurements):
- The correction begins at the last prompt token and sits in the last blocks, where the model already holds the old
  answer: what is learnt for one wording carries over to others, and training touches a few tokens only.
- Deferral by calibrated keys (`elder.mixture.keys`) instead of Hamming distances between routing codes.
- A sequence is routed by the stored edit it matches, not by its own last token, so wordings share a route.
- Rows of earlier edits are replayed in every step.
- When the low-rank maps have taken up as many edits as they have room for, a new group of them is opened and the old
  one never changes again. Training touches one group, so its cost does not grow with the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from elder.base import EditOutcome
from elder.edit import Edit
from elder.editors.mixture.elder_plus_options import ElderPlusOptions
from elder.editors.mixture.key_extraction import KeyContext, Written, calibrate, extract_keys
from elder.editors.mixture.keyed_editor import KeyedEditor
from elder.editors.mixture.mixture_editor import outcomes
from elder.forward.suffix import descend
from elder.forward.tail import Tail, TailTrainer
from elder.mixture.router import guided_loss, keep_top
from elder.mixture.samples import Row, encode_rows, prefixed
from elder.runtime import merge_shares
from elder.tokens import pad_id


class ElderPlusEditor(KeyedEditor):
    """See the module's text; the parts are in `elder/mixture/`."""

    method = "elder-plus"
    options: ElderPlusOptions

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The last three eighths of the blocks."""
        count = max(1, round(depth * 3 / 8))
        return tuple(range(depth - count, depth))

    def _trainers(self) -> None:
        super()._trainers()
        self.tails = TailTrainer(
            self._clone,
            self._partial,
            self.layers[0],
            self._parts.blocks,
            self.subject_layer,
            self,
            self.base.runtime,
            pad_id(self.base.tokenizer),
            self.options.micro_batch,
            self.options.start == "prompt",
        )

    def trainable(self) -> list[nn.Parameter]:
        """The low-rank maps, and the routers where they are used."""
        own = list(self.groups[-1].parameters())
        return [*own, *self.router.parameters()] if self._routed else own

    @property
    def room(self) -> int:
        """Number of edits that one group has room for; 0: any number."""
        if self.options.parameters_per_edit == 0 or self.options.gate == "hamming":
            return 0
        size = sum(p.numel() for p in self.mixtures.parameters())
        return max(self.options.batch_size, size // self.options.parameters_per_edit)

    # ---- learning -----------------------------------------------------------------------------------------------

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        first = len(self.known)
        rows, prompts = self._rows(edits, first)
        self._grow()
        own = self._prepare(rows)
        context = KeyContext(self.base, self.keys, self.gates, self.tails, self.known)
        seen = extract_keys(context, edits, prompts, [row.owner - first for row in rows], own)
        said = self._note_answers(edits, rows, first)
        self._remember(edits, seen)
        replaced = self._corrected(edits, seen, said, first)
        if inherited := self._inherited(edits, rows, replaced, first):
            rows = [*rows, *inherited]
            own = self._prepare(rows)
        self._hand_over(replaced, first)
        calibrate(context, edits, seen, first)
        picked = self.ledger.draw(self.options.replay * self.options.replay_pool, self._seen["batches"])
        old = [self.ledger.rows[i] for i in picked]
        pools = [old[i :: self.options.replay_pool] for i in range(self.options.replay_pool)] if old else []
        replays = [self._prepare(pool) for pool in pools if pool]
        losses, answer, replayed = self._fit(rows, own, [p for p in pools if p], replays)
        self._record(rows, answer, picked, pools, replayed)
        local = [Row(row.prompt, row.answer, row.owner - first, row.label) for row in rows]
        done = outcomes(edits, local, answer)
        for i, numbers in replaced.items():
            names = ", ".join(str(self.known[number]["id"]) for number in numbers)
            done[i] = replace(done[i], note=f"replaces the earlier edit of this fact: {names}")
        return done, losses

    def _rows(self, edits: Sequence[Edit], first: int) -> tuple[list[Row], list[Written]]:
        """Training rows of a batch, owners numbered in the whole stream, and their prompts with the forms of these."""
        rows: list[Row] = []
        prompts: list[Written] = []
        for number, edit in enumerate(edits, start=first):
            contexts = prefixed(self.options.prefixes, f"{self.options.seed}/{number}")
            texts = [*edit.training_prompts, *(self.base.texts.within(one, edit.prompt) for one in contexts)]
            rows += encode_rows(self.base.texts, texts, edit.target, number, self.options.terminator)
            prompts += product(texts, self.base.texts.forms)
        return rows, prompts

    def _inherited(
        self, edits: Sequence[Edit], rows: Sequence[Row], replaced: Mapping[int, Sequence[int]], first: int
    ) -> list[Row]:
        """Rows with new answers after the wordings that trained the edits they replace, as far as these are kept."""
        texts, made = self.base.texts, list[Row]()
        for i, numbers in replaced.items():
            own = {row.prompt for row in rows if row.owner == first + i}
            for former in dict.fromkeys(row.prompt for row in self.ledger.rows if row.owner in numbers):
                if former in own:
                    continue
                text = str(self.base.tokenizer.decode(list(former), clean_up_tokenization_spaces=False))
                again = encode_rows(texts, [text], edits[i].target, first + i, self.options.terminator)
                made += [row for row in again if row.prompt == former]
        return made

    def _grow(self) -> None:
        """Open a new group when the last one is full; only rows of its own edits are replayed from then on."""
        inside = int((self.group_of == len(self.groups) - 1).sum())
        if self.room and inside >= self.room:
            self._open_group()
            self.ledger.drop({row.owner for row in self.ledger.rows})

    def _prepare(self, rows: Sequence[Row]) -> list[Tail]:
        return self.tails.prepare(rows)

    def _losses(self, part: Tail) -> tuple[Tensor, Tensor | None, Tensor]:
        """Answer losses (B,), log-probabilities of the router, owners."""
        owners = part.rows.owners
        if self.options.gate == "hamming":
            log_p = self.router(self.keys.as_units(self.keys.stored_answer(part.last)))
            weights = keep_top(log_p, self.options.top_k)[0]
        else:
            weights, log_p = self._weights(owners)  # type: ignore[assignment]
        return self.tails.answer_losses(part, weights.transpose(0, 1), len(self.groups) - 1), log_p, owners

    def _fit(
        self,
        rows: Sequence[Row],
        own: Sequence[Tail],
        pools: Sequence[Sequence[Row]],
        replays: Sequence[Sequence[Tail]],
    ) -> tuple[list[float], Tensor, list[Tensor]]:
        """Train on the batch and one replay pool a step; returns the losses of steps, rows and each pool's rows."""
        last: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        counts = [sum(len(r.answer) for r in rows) + sum(len(r.answer) for r in pool) for pool in pools or [[]]]
        sizes = [len(rows) + len(pool) for pool in pools or [[]]]
        turn = 0

        def loss_of(group: int, number: int, part: Tail, pool: int) -> Callable[[], Tensor]:
            def loss() -> Tensor:
                answer, log_p, owners = self._losses(part)
                last[group, number] = (answer.detach(), None if log_p is None else log_p.detach())
                total = (answer * part.rows.weights).sum() / counts[pool]
                if log_p is not None and self.options.guide_weight:
                    guide = guided_loss(log_p, self.allocation[owners]) * part.rows.weights
                    total = total + self.options.guide_weight * guide.sum() / sizes[pool]
                return total

            return loss

        def parts() -> list[Callable[[], Tensor]]:
            nonlocal turn
            pool = turn % len(replays) if replays else 0
            turn += 1
            chosen = [loss_of(-1, n, part, pool) for n, part in enumerate(own)]
            return chosen + [loss_of(pool, n, part, pool) for n, part in enumerate(replays[pool] if replays else [])]

        def learnt() -> bool:
            worst = torch.zeros(self.base.runtime.world_size, device=self.base.runtime.device)
            mine = [self._per_token(part, last[-1, n][0]) * part.rows.weights for n, part in enumerate(own)]
            worst[self.base.runtime.rank] = torch.cat(mine).max()
            return bool(self.base.runtime.sum(worst).max() < self.options.learnt_below)

        o = self.options
        losses = descend(self.trainable(), parts, o.lr, o.steps + o.extra_steps, self.base.runtime, learnt)
        answer = self._gather(own, [last[-1, n] for n in range(len(own))], len(rows))
        if self.options.gate == "hamming":
            self._store_codes(own, last, len(rows))
        done = [
            self._gather(replay, [last[pool, n] for n in range(len(replay))], len(pools[pool]))
            if (pool, 0) in last
            else torch.empty(0)
            for pool, replay in enumerate(replays)
        ]
        return losses, answer, done

    @staticmethod
    def _per_token(part: Tail, answer: Tensor) -> Tensor:
        return answer / (part.rows.labels >= 0).sum(1)

    def _gather(self, parts: Sequence[Tail], last: Sequence[tuple[Tensor, Any]], count: int) -> Tensor:
        """Row losses of all ranks, (count,), in the order of the rows."""
        mine: list[float] = []
        for part, (answer, _) in zip(parts, last, strict=True):
            mine += answer[: int(part.rows.weights.sum())].tolist()
        return torch.tensor(merge_shares(self.base.runtime.gather_objects(mine))[:count])

    def _store_codes(self, own: Sequence[Tail], last: Mapping[tuple[int, int], Any], count: int) -> None:
        mine: list[Tensor] = []
        for n, part in enumerate(own):
            chosen = keep_top(last[-1, n][1], self.options.top_k)[1]
            mine += list(chosen[: int(part.rows.weights.sum())].cpu())
        merged = merge_shares(self.base.runtime.gather_objects(mine))[:count]
        self.codes.add(torch.stack(merged).to(self.base.runtime.device))

    def _record(
        self,
        rows: Sequence[Row],
        answer: Tensor,
        picked: Sequence[int],
        pools: Sequence[Sequence[Row]],
        replayed: Sequence[Tensor],
    ) -> None:
        """Note the losses of replayed rows and store the new rows for replay."""
        for pool, losses in enumerate(replayed):
            for at, loss in zip(picked[pool :: self.options.replay_pool], losses.tolist(), strict=False):
                self.ledger.loss[at] = loss / len(self.ledger.rows[at].answer)
        per_token = [loss / len(row.answer) for loss, row in zip(answer.tolist(), rows, strict=True)]
        self.ledger.add(rows, per_token)
