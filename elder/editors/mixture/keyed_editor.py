"""The memory and the gate of elder-plus: what is stored of each edit, and by which rule it is found again.

A subclass learns batches; this one keeps keys, answers, routes and replayed rows of all edits, lets a correction answer
for the edits that it replaces, and gives and takes all of that as a state. Knows nothing of training.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from elder.edit import Edit
from elder.editors.mixture.elder_plus_options import ElderPlusOptions
from elder.editors.mixture.key_extraction import KeyBatch
from elder.editors.mixture.mixture_editor import MixtureEditor
from elder.editors.mixture.old_answers import old_answers
from elder.editors.mixture.supersession import Contention, answers_of, corrected, may_correct
from elder.errors import ModelError
from elder.mixture.answers import UNKNOWN, AnswerBias, Answers
from elder.mixture.codes import CodeStore
from elder.mixture.deferral import Deferral, HammingDeferral, KeyDeferral
from elder.mixture.keys import ANYWHERE, UNNAMED, KeyMemory, ThresholdCalibrator
from elder.mixture.replay_buffer import ReplayBuffer
from elder.mixture.route import ENDLESS
from elder.mixture.router import Router
from elder.mixture.samples import Row, encode_rows
from elder.models.anatomy import Anatomy
from elder.runtime import told_by_first
from elder.state import pack_json, unpack_json
from elder.state_checks import take
from elder.word_parts import continuing

KEY_PROMPTS = 4  # prompts of an edit that give keys, in each of its forms
BLIND = 0.2  # share of other edits' questions that pass the answer threshold, from which on the user is told
ANSWER_SLACK = 3  # tokens by which an answer that is looked for in a text may be longer than twice the longest target


class KeyedEditor(MixtureEditor):
    """See the module's text; the parts are in `elder/mixture/`."""

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

    def _build(self, generator: torch.Generator) -> None:
        o, device = self.options, self.base.runtime.device
        self.subject_layer = o.subject_layer
        if not 0 <= self.subject_layer <= self.layers[0]:
            raise ModelError(
                f"editor.subject_layer: {self.subject_layer} must not come after "
                f"the first edited block {self.layers[0]}"
            )
        sources = KEY_PROMPTS * len(self.base.texts.forms) + 1
        self.keys = KeyMemory(
            self._parts.width, o.key_width, o.subject_tokens, sources, o.seed, device, o.center == "stream"
        )
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

    @property
    def thresholds(self) -> tuple[float, float]:
        """The least subject and answer similarity of a prompt in scope."""
        o = self.options
        subject = self.gates["subject"].threshold if o.subject_threshold is None else o.subject_threshold
        answer = self.gates["answer"].threshold if o.answer_threshold is None else o.answer_threshold
        return subject, answer

    # ---- the rule ---------------------------------------------------------------------------------------------------

    @property
    def _routed(self) -> bool:
        return self.options.routing == "router" or self.options.gate == "hamming"

    @property
    def _pushes(self) -> bool:
        return self.options.answer_bias > 0 and self.options.gate == "keys"

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
            o.trade,
            AnswerBias(o.answer_bias, [record.get("said", ()) for record in self.known]) if self._pushes else None,
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

    # ---- what is remembered -----------------------------------------------------------------------------------------

    def _clashes(self, edit: Edit, earlier: Edit) -> bool:
        """See `MixtureEditor._clashes`: a batch does not hold a fact and its correction."""
        if self.options.replaces == "relation" and self.options.gate == "keys":
            return may_correct(edit, earlier)
        return super()._clashes(edit, earlier)

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
            record: dict[str, Any] = {
                "id": edit.id,
                "prompt": edit.prompt,
                "subject": edit.subject,
                "answers": answers_of(edit),
            }
            record |= {"said": self._forms(edit)} if self._pushes else {}
            self.known.append(record if most == UNNAMED else {**record, "reach": most})
        self.keys.add(seen.subject, seen.real, seen.answer, reach)

    def _forms(self, edit: Edit) -> list[list[int]]:
        """The ids of an edit's answer in each form in which it is trained, without what ends it."""
        plain, trained = (
            [list(row.answer) for row in encode_rows(self.base.texts, [edit.prompt], edit.target, 0, end)]
            for end in ("none", self.options.terminator)
        )
        return [_common_beginning(*pair) for pair in zip(plain, trained, strict=True)]

    def _reach(self, after: Tensor) -> Tensor:
        """(E,) tokens that may follow the subjects of new edits, from how many do in their own prompts."""
        free = self.options.distance
        bound = torch.full_like(after, ANYWHERE) if free is None else after + free
        return bound.masked_fill(after < 0, UNNAMED)

    def _note_answers(self, edits: Sequence[Edit], rows: Sequence[Row], first: int) -> list[Tensor]:
        """Note how long the new answers are, and the first tokens of the old ones that the base knows. Collective.

        Returns:
            What the base says after the prompts of each edit, see `old_answers`; empty if it is not asked.
        """
        longest = [ENDLESS] * len(edits)
        if self.options.after_answer == "base":
            longest = [max(len(row.answer) for row in rows if row.owner == first + i) for i in range(len(edits))]
        old, said = [UNKNOWN] * len(edits), list[Tensor]()
        one_form = len(self.base.texts.forms) == 1  # chat and plain answers begin with different tokens
        if self.options.ask_base is not None and self.options.gate == "keys" and one_form:
            with self.edits.disabled():
                old, said = old_answers(self.base, self._clone, edits, self.options.ask_base, self.options.micro_batch)
        self.answers.add(longest, old)
        return said

    def _corrected(
        self, edits: Sequence[Edit], seen: KeyBatch, said: Sequence[Tensor], first: int
    ) -> dict[int, list[int]]:
        """The earlier edits that new ones replace, see `corrected`. Rank 0 decides for all. Collective."""
        old, o = self.answers.old.tolist(), self.options
        questions = [self.keys.as_units(seen.answer[i][seen.worded[i]]) for i in range(len(edits))]
        rule = None
        if o.replaces == "relation" and o.gate == "keys":
            rule = Contention(self.thresholds[1], 0.0 if o.ask_base is None else o.ask_base, o.trade)

        def agreed(i: int, number: int) -> float | None:
            return float(said[i][:, old[number]].max()) if said and old[number] != UNKNOWN else None

        def found() -> dict[int, list[int]]:
            return corrected(edits, questions, agreed, self.known[:first], self.keys.answers, rule)

        return told_by_first(found, self.base.runtime)

    def _hand_over(self, replaced: Mapping[int, Sequence[int]], first: int) -> None:
        """Let the new edits answer where those that they replace match, and replay these no more."""
        for i, numbers in replaced.items():
            for number in numbers:
                self.keys.hand_over(number, first + i)
                self.known[number] = {**self.known[number], "prompt": None, "heir": first + i}
        self.ledger.drop({number for numbers in replaced.values() for number in numbers})

    @property
    def replaced(self) -> dict[str, str]:
        """Id of each edit that a later one has corrected -> id of the one that answers in its place now."""
        heirs = self.keys.heir.tolist()
        ids = self._ids()
        return {ids[number]: ids[heir] for number, heir in enumerate(heirs) if heir != number}

    # ---- state ------------------------------------------------------------------------------------------------------

    def _notes(self) -> dict[str, float]:
        subject, answer = self.thresholds
        return {
            "groups": float(len(self.groups)),
            "ledger_rows": float(len(self.ledger)),
            "subject_threshold": subject,
            "answer_threshold": answer,
            "answer_passing": self.gates["answer"].passing(answer),
        }

    def _warnings(self) -> tuple[str, ...]:
        passing = self.gates["answer"].passing(self.thresholds[1])
        if passing <= BLIND or self.options.gate != "keys":
            return ()
        return (
            f"the gate hardly tells questions apart: {passing:.0%} of the questions of other edits are alike enough to "
            "pass for those of an edit, so a prompt about an edited subject may get the new answer whatever it asks",
        )

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
            if gate.observed != [len(gate.wanted), len(gate.unwanted)]:  # else all were kept, as those of before were
                state[f"gate.{name}.observed"] = torch.tensor(gate.observed)
        return state

    def _groups_in(self, state: Mapping[str, Tensor]) -> int:
        return max(1, len({name.split(".")[1] for name in state if name.startswith("mixtures.")}))

    def _contradictions(self, state: Mapping[str, Tensor]) -> list[str]:
        edits = len(unpack_json(state["known"]))
        counts = ("keys.real", "keys.answer", "allocation", "group_of", "answers.length", "answers.old")
        counted = {name: len(state[name]) for name in counts}
        wrong = [f"'{name}' counts {n} edits, 'known' {edits}" for name, n in counted.items() if n != edits]
        records = unpack_json(state["known"])
        heirs = [(number, r["heir"]) for number, r in enumerate(records) if isinstance(r, dict) and "heir" in r]
        if not all(type(heir) is int and number < heir < edits for number, heir in heirs):
            wrong.append("'known' names heirs that are not there")
        size = int(self.base.model.config.get_text_config().vocab_size)
        if not all(_are_ids(r["said"], size) for r in records if isinstance(r, dict) and "said" in r):
            wrong.append("'known' has answers that are no ids")
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
        for name in self.gates:
            kinds = [state.get(f"gate.{name}.{kind}") for kind in ("wanted", "unwanted")]
            if f"gate.{name}.observed" not in state and None not in kinds:
                state = {**state, f"gate.{name}.observed": torch.tensor([len(kind) for kind in kinds])}  # type: ignore[arg-type]
        super().load_state_dict(state)

    def _pattern(self, groups: int) -> dict[str, Tensor]:
        answers = {f"answers.{name}": t for name, t in self.answers.state().items()}
        observed = {f"gate.{name}.observed": torch.tensor(gate.observed) for name, gate in self.gates.items()}
        return super()._pattern(groups) | answers | observed

    def _load(self, state: Mapping[str, Tensor]) -> None:
        take({f"router.{name}": p for name, p in self.router.named_parameters()}, state)
        self.keys.load(_part(state, "keys."))
        self.ledger.load(_part(state, "ledger."))
        self.answers.load(_part(state, "answers."))
        self.known = unpack_json(state["known"])
        self.keys.reach = torch.tensor([r.get("reach", UNNAMED) for r in self.known], device=self.keys.device).long()
        for number, record in enumerate(self.known):
            if "heir" in record:
                self.keys.hand_over(number, record["heir"])
        self.allocation = state["allocation"].to(self.allocation.device)
        self.group_of = state["group_of"].clone()
        self.codes.load(state["codes"], int(state["codes.recorded"]))
        for name, gate in self.gates.items():
            gate.wanted = state[f"gate.{name}.wanted"].tolist()
            gate.unwanted = state[f"gate.{name}.unwanted"].tolist()
            gate.observed = state[f"gate.{name}.observed"].tolist()


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _common_beginning(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """What two answers share; a full stop at the end may have merged with the last word."""
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def _are_ids(forms: Any, size: int) -> bool:
    """Whether a value from a file is a list of lists of ids below `size`."""
    lists = isinstance(forms, list) and all(isinstance(form, list) for form in forms)
    return lists and all(type(token) is int and 0 <= token < size for form in forms for token in form)
