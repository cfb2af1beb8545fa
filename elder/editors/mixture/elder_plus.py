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

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from elder.base import EditOutcome
from elder.edit import Edit
from elder.editors.mixture.elder_plus_options import ElderPlusOptions
from elder.editors.mixture.key_extraction import KeyBatch, KeyContext, Written, calibrate, extract_keys
from elder.editors.mixture.mixture_editor import MixtureEditor, outcomes
from elder.editors.mixture.old_answers import old_answers
from elder.errors import ModelError
from elder.forward.suffix import descend
from elder.forward.tail import Tail, TailTrainer
from elder.mixture.answers import UNKNOWN, Answers
from elder.mixture.codes import CodeStore
from elder.mixture.deferral import Deferral, HammingDeferral, KeyDeferral
from elder.mixture.keys import ANYWHERE, UNNAMED, KeyMemory, ThresholdCalibrator
from elder.mixture.replay_buffer import ReplayBuffer
from elder.mixture.route import ENDLESS
from elder.mixture.router import Router, guided_loss, keep_top
from elder.mixture.samples import Row, encode_rows, prefixed
from elder.models.anatomy import Anatomy
from elder.runtime import merge_shares
from elder.state import pack_json, unpack_json
from elder.state_checks import take
from elder.tokens import pad_id
from elder.word_parts import continuing

KEY_PROMPTS = 4  # prompts of an edit that give keys, in each of its forms
ANSWER_SLACK = 3  # tokens by which an answer that is looked for in a text may be longer than twice the longest target


class ElderPlusEditor(MixtureEditor):
    """See the module's text; the parts are in `elder/mixture/`."""

    method = "elder-plus"
    growing = (
        "cursor",
        "keys.subject",
        "keys.real",
        "keys.answer",
        "ledger.",
        "known",
        "allocation",
        "group_of",
        "codes",
        "gate.",
        "answers.",
    )
    texts = ("cursor", "known")
    options: ElderPlusOptions

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The last three eighths of the blocks."""
        count = max(1, round(depth * 3 / 8))
        return tuple(range(depth - count, depth))

    def _build(self, generator: torch.Generator) -> None:
        o, device = self.options, self.base.runtime.device
        self.subject_layer = o.subject_layer
        if not 0 <= self.subject_layer <= self.layers[0]:
            raise ModelError(
                f"editor.subject_layer: {self.subject_layer} must not come after "
                f"the first edited block {self.layers[0]}"
            )
        sources = KEY_PROMPTS * len(self.base.texts.forms) + 1
        self.keys = KeyMemory(self._parts.width, o.key_width, o.subject_tokens, sources, o.seed, device)
        self.gates = {"subject": ThresholdCalibrator(0.75, 0.98, 0.4), "answer": ThresholdCalibrator(0.3, 0.9, 0.15)}
        self.goes_on = continuing(self.base.tokenizer).to(device) if o.whole_words else None
        self.router = Router(self.keys.width, len(self.layers), o.experts, o.router_bias, generator).to(device)
        self.codes = CodeStore(len(self.layers), o.experts, o.top_k, device)
        self.ledger = ReplayBuffer(o.seed)
        self.answers = Answers()
        self.known: list[dict[str, Any]] = []  # id, prompt and subject of every edit, by number
        self.group_of = torch.zeros(0, dtype=torch.long)  # the group of low-rank maps of every edit
        self.allocation = torch.zeros(0, len(self.layers), o.experts, dtype=torch.bool, device=device)

    def _tap(self, parts: Anatomy) -> nn.Module:
        return parts.blocks[self.layers[0]]

    def _low_block(self) -> int:
        return self.subject_layer

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

    @property
    def thresholds(self) -> tuple[float, float]:
        """The least subject and answer similarity of a prompt in scope."""
        o = self.options
        subject = self.gates["subject"].threshold if o.subject_threshold is None else o.subject_threshold
        answer = self.gates["answer"].threshold if o.answer_threshold is None else o.answer_threshold
        return subject, answer

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

    # ---- routing ------------------------------------------------------------------------------------------------

    @property
    def _routed(self) -> bool:
        return self.options.routing == "router" or self.options.gate == "hamming"

    def _deferral(self) -> Deferral:
        return self._rule(copy.deepcopy(self.router).requires_grad_(False), copy.deepcopy(self.codes))

    def _rule(self, router: Router, codes: CodeStore) -> Deferral:
        o, keys, whole = self.options, self.keys.snapshot(), self.options.start == "prompt"
        if o.gate == "hamming":
            return HammingDeferral(router, codes, o.top_k, o.epsilon, keys, whole)
        longest = max((len(row.answer) for row in self.ledger.rows), default=0)
        asked = router if self._routed else None
        return KeyDeferral(
            keys,
            self.thresholds,
            self.allocation,
            self.group_of,
            o.top_k,
            asked,
            whole,
            2 * longest + ANSWER_SLACK,
            self.answers.snapshot(),
            o.ask_base,
            self.goes_on,
        )

    def _weights(self, owners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates (B, L, N) of the given edits as they are now, and the router's log-probabilities if it is asked."""
        rule = self._rule(self.router, self.codes)
        assert isinstance(rule, KeyDeferral)
        return rule.weights(owners)

    def _ids(self) -> tuple[str, ...]:
        return tuple(str(record["id"]) for record in self.known)

    def _undo(self) -> Callable[[], None]:
        undo, keys, codes = super()._undo(), self.keys.snapshot(), copy.deepcopy(self.codes)
        ledger, gates, known = copy.copy(self.ledger), copy.deepcopy(self.gates), list(self.known)
        ledger.rows, ledger.loss = list(ledger.rows), list(ledger.loss)
        allocation, group_of, answers = self.allocation, self.group_of, self.answers.snapshot()

        def all_of_it() -> None:
            undo()
            self.answers = answers
            self.keys, self.codes, self.ledger, self.gates, self.known = keys, codes, ledger, gates, known
            self.allocation, self.group_of = allocation, group_of

        return all_of_it

    # ---- learning -----------------------------------------------------------------------------------------------

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        first = len(self.known)
        rows, prompts = self._rows(edits, first)
        replaced = self._forget_former(edits)
        self._grow()
        own = self._prepare(rows)
        context = KeyContext(self.base, self.keys, self.gates, self.tails, self.known)
        seen = extract_keys(context, edits, prompts, [row.owner - first for row in rows], own)
        self._remember(edits, seen)
        self._note_answers(edits, rows, first)
        calibrate(context, edits, seen, first)
        picked = self.ledger.draw(self.options.replay * self.options.replay_pool, self._seen["batches"])
        old = [self.ledger.rows[i] for i in picked]
        pools = [old[i :: self.options.replay_pool] for i in range(self.options.replay_pool)] if old else []
        replays = [self._prepare(pool) for pool in pools if pool]
        losses, answer, replayed = self._fit(rows, own, [p for p in pools if p], replays)
        self._record(rows, answer, picked, pools, replayed)
        local = [Row(row.prompt, row.answer, row.owner - first, row.label) for row in rows]
        done = outcomes(edits, local, answer)
        note = "replaces an earlier edit of the same prompt"
        return [
            EditOutcome(o.edit_id, o.accepted, o.final_loss, note if i in replaced else "") for i, o in enumerate(done)
        ], losses

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

    def _forget_former(self, edits: Sequence[Edit]) -> set[int]:
        """Drop keys and rows of earlier edits of the same prompts: the newest edit counts."""
        former = {record["prompt"]: number for number, record in enumerate(self.known)}
        hit = {i: former[edit.prompt] for i, edit in enumerate(edits) if edit.prompt in former}
        for number in hit.values():
            self.keys.drop(number)
            self.known[number] = {**self.known[number], "prompt": None}
        self.ledger.drop(set(hit.values()))
        return set(hit)

    def _remember(self, edits: Sequence[Edit], seen: KeyBatch) -> None:
        drawn = torch.zeros(len(edits), len(self.layers), self.options.experts, dtype=torch.bool)
        for i, row in enumerate(drawn):
            rng = random.Random(f"{self.options.seed}/allocation/{len(self.known) + i}")
            for layer in row:
                layer[rng.sample(range(self.options.experts), self.options.top_k)] = True
        group = torch.full((len(edits),), len(self.groups) - 1)
        self.group_of = torch.cat([self.group_of, group])
        self.allocation = torch.cat([self.allocation, drawn.to(self.allocation.device)])
        reach = self._reach(seen.after)
        for edit, most in zip(edits, reach.tolist(), strict=True):
            record = {"id": edit.id, "prompt": edit.prompt, "subject": edit.subject}
            self.known.append(record if most == UNNAMED else {**record, "reach": most})
        self.keys.add(seen.subject, seen.real, seen.answer, reach)

    def _reach(self, after: Tensor) -> Tensor:
        """(E,) tokens that may follow the subjects of new edits, from how many do in their own prompts."""
        free = self.options.distance
        bound = torch.full_like(after, ANYWHERE) if free is None else after + free
        return bound.masked_fill(after < 0, UNNAMED)

    def _note_answers(self, edits: Sequence[Edit], rows: Sequence[Row], first: int) -> None:
        """Note how long the new answers are, and the first tokens of the old ones that the base knows. Collective."""
        longest = [ENDLESS] * len(edits)
        if self.options.after_answer == "base":
            longest = [max(len(row.answer) for row in rows if row.owner == first + i) for i in range(len(edits))]
        old = [UNKNOWN] * len(edits)
        one_form = len(self.base.texts.forms) == 1  # chat and plain answers begin with different tokens
        if self.options.ask_base is not None and self.options.gate == "keys" and one_form:
            with self.edits.disabled():
                old = old_answers(self.base, self._clone, edits, self.options.ask_base, self.options.micro_batch)
        self.answers.add(longest, old)

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
            log_p = self.router(self.keys.unit(part.last, self.keys.answer_center))
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

    # ---- state --------------------------------------------------------------------------------------------------

    def _notes(self) -> dict[str, float]:
        subject, answer = self.thresholds
        return {
            "groups": float(len(self.groups)),
            "ledger_rows": float(len(self.ledger)),
            "subject_threshold": subject,
            "answer_threshold": answer,
        }

    def _state(self) -> dict[str, Tensor]:
        state = {f"router.{name}": p.detach().cpu().clone() for name, p in self.router.named_parameters()}
        state |= {f"keys.{name}": t for name, t in self.keys.state().items()}
        state |= {f"ledger.{name}": t for name, t in self.ledger.state().items()}
        if not self.answers.empty:  # the state of an adapter from before they were noted stays what it was
            state |= {f"answers.{name}": t for name, t in self.answers.state().items()}
        state["known"] = pack_json(self.known)
        state["allocation"], state["group_of"] = self.allocation.cpu(), self.group_of.clone()
        state["codes"] = self.codes.state()
        state["codes.recorded"] = torch.tensor(self.codes.recorded)
        for name, gate in self.gates.items():
            state[f"gate.{name}.wanted"] = torch.tensor(gate.wanted, dtype=torch.float64)
            state[f"gate.{name}.unwanted"] = torch.tensor(gate.unwanted, dtype=torch.float64)
        return state

    def _groups_in(self, state: Mapping[str, Tensor]) -> int:
        return max(1, len({name.split(".")[1] for name in state if name.startswith("mixtures.")}))

    def _contradictions(self, state: Mapping[str, Tensor]) -> list[str]:
        edits = len(unpack_json(state["known"]))
        counts = ("keys.real", "keys.answer", "allocation", "group_of", "answers.length", "answers.old")
        counted = {name: len(state[name]) for name in counts}
        wrong = [f"'{name}' counts {n} edits, 'known' {edits}" for name, n in counted.items() if n != edits]
        if edits and not 0 <= int(state["group_of"].min()) <= int(state["group_of"].max()) < self._groups_in(state):
            wrong.append("'group_of' names groups that are not there")
        return [
            *super()._contradictions(state),
            *wrong,
            *KeyMemory.problems(_part(state, "keys.")),
            *ReplayBuffer.problems(_part(state, "ledger.")),
        ]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; a state from before answers were noted knows none."""
        if "known" in state and not any(name.startswith("answers.") for name in state):
            edits = len(state["group_of"]) if "group_of" in state else 0
            state = {**state, **{f"answers.{name}": t for name, t in Answers.unknown(edits).items()}}
        super().load_state_dict(state)

    def _pattern(self, groups: int) -> dict[str, Tensor]:
        return super()._pattern(groups) | {f"answers.{name}": t for name, t in self.answers.state().items()}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        take({f"router.{name}": p for name, p in self.router.named_parameters()}, state)
        self.keys.load(_part(state, "keys."))
        self.ledger.load(_part(state, "ledger."))
        self.answers.load(_part(state, "answers."))
        self.known = unpack_json(state["known"])
        self.keys.reach = torch.tensor([r.get("reach", UNNAMED) for r in self.known], device=self.keys.device).long()
        self.allocation = state["allocation"].to(self.allocation.device)
        self.group_of = state["group_of"].clone()
        self.codes.load(state["codes"], int(state["codes.recorded"]))
        for name, gate in self.gates.items():
            gate.wanted = state[f"gate.{name}.wanted"].tolist()
            gate.unwanted = state[f"gate.{name}.unwanted"].tolist()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
