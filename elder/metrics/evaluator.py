"""The evaluator: asks an edited model about its edits and judges the answers under named protocols.

Knows nothing of stages, stores or trackers. See docs/metrics.md for every definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from elder.base import Editor
from elder.edit import Edit
from elder.errors import ConfigError, DataError
from elder.metrics.after_answer import EDITED, OWN, answer_end, loss_ratio
from elder.metrics.base_answers import SharedAnswers
from elder.metrics.batching import MeasuringProgress, ProgressMeter
from elder.metrics.corrections import Correction, corrections
from elder.metrics.counterfact import Contest, Record, counterfact_scores
from elder.metrics.fluency import ngram_entropy
from elder.metrics.generation import Continuation
from elder.metrics.locality import same_continuation, same_predictions
from elder.metrics.near import NEAR
from elder.metrics.perplexity import TEXT, perplexity, windows
from elder.metrics.prober import Ask, Prober
from elder.metrics.questions import DEFAULT_PARTS, LOCAL, PROTOCOLS, Question, check_names, questions
from elder.metrics.report import EvaluationReport, ResultTable
from elder.metrics.scoring import Pair, TokenScores
from elder.metrics.text import same_answer
from elder.metrics.zsre import asked as zsre_asked
from elder.metrics.zsre import token_accuracy
from elder.tokens import TextFormat

FLUENCY_TOKENS = 64
PLAIN = ".plain"  # ends the names of figures of plain completions, where prompts go through a chat template


@dataclass
class _Answers:
    """Everything that the models said in one measurement."""

    free: dict[Ask, Continuation] = field(default_factory=dict)
    base_free: dict[str, Continuation] = field(default_factory=dict)
    forced: dict[Pair, TokenScores] = field(default_factory=dict)
    base_forced: dict[Pair, TokenScores] = field(default_factory=dict)
    scopes: dict[str, bool] | None = None
    long: dict[str, Continuation] = field(default_factory=dict)


class Evaluator:
    """Measures an editor, again and again as it learns; remembers what the unedited model said.

    Every method is collective: all ranks call it with the same arguments and get the same result.

    Args:
        editor: The editor to be measured, in whatever state it is when `measure` is called.
        protocols: `generate` (greedy free generation to the natural stop) and/or `forced` (teacher forcing).
        max_new_tokens: Most tokens of a free answer; targets that are longer get more room.
        batch_size: Most prompts in one forward.
        perplexity_text: Text of `perplexity`; the package's own by default.
        completions: Where prompts go through a chat template, measure them as plain texts too, as is done in any case
            where edits are trained in both forms; those figures have `.plain` at the end of their names.
        texts: The one form that is measured; default: what the base says.

    Raises:
        ConfigError: A protocol is unknown or a size is not positive.
    """

    def __init__(
        self,
        editor: Editor,
        protocols: Sequence[str] = PROTOCOLS,
        max_new_tokens: int = 16,
        batch_size: int = 64,
        perplexity_text: str | None = None,
        completions: bool = False,
        texts: TextFormat | None = None,
    ) -> None:
        check_names(protocols, ())
        if max_new_tokens < 1 or batch_size < 1:
            raise ConfigError(f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be at least 1")
        self.editor = editor
        self.protocols = tuple(dict.fromkeys(protocols))
        self._prober = Prober(editor, max_new_tokens, batch_size, texts)
        self._plain: Evaluator | None = None
        chat = editor.base.chat
        if texts is None and chat is not None and (completions or chat.plain):
            plain = replace(editor.base.texts, chat=None)
            self._plain = Evaluator(editor, protocols, max_new_tokens, batch_size, texts=plain)
        self._text = TEXT if perplexity_text is None else perplexity_text

    def share(self, answers: SharedAnswers) -> None:
        """Ask the base only what no other evaluator of the same base has asked it, in the same form and batches.

        Args:
            answers: What it has said so far; all that share it must be about one base model.
        """
        self._prober.share(answers)
        if self._plain is not None:
            self._plain.share(answers)

    def measure(
        self,
        edits: Sequence[Edit],
        parts: Sequence[str] = DEFAULT_PARTS,
        progress: MeasuringProgress | None = None,
        so_far: Sequence[Edit] | None = None,
    ) -> EvaluationReport:
        """Measure the editor as it is now on some of its edits.

        Args:
            edits: What is asked about; every prompt that occurs twice is run once.
            parts: Of `reliability`, `generalization`, `locality`, `portability`, `scope`, and, only when asked
                for, `fluency`, `counterfact`, `zsre`, `perplexity`, `same_subject`, `mention`, `name`, `stale`,
                `after_answer`.
            progress: Called after every batch with (prompts done, prompts in all).
            so_far: All edits of the stream so far, in order, if `edits` are not all; `stale` looks for corrections
                among them.

        Raises:
            ConfigError: A part is unknown.
            DataError: A prompt with its answer does not fit into the context of the model; lists all.
        """
        so_far = edits if so_far is None else so_far
        found = self._measure(edits, parts, progress, so_far)
        if self._plain is None:
            return found
        others = self._plain._measure(edits, [p for p in parts if p != "perplexity"], progress, so_far)
        return found.with_others(others, PLAIN)

    def _measure(
        self,
        edits: Sequence[Edit],
        parts: Sequence[str],
        progress: MeasuringProgress | None,
        so_far: Sequence[Edit],
    ) -> EvaluationReport:
        check_names(self.protocols, parts)
        asked = [q for q in questions(edits, parts, so_far) if not (q.made and self._too_long(q))]
        measured = {edit.id: index for index, edit in enumerate(edits)}
        known = corrections(so_far) if "stale" in parts else []
        corrected = {measured[one.edit]: one for one in known if one.edit in measured}
        old = list(dict.fromkeys((p, answer) for c in corrected.values() for p in c.prompts for answer in c.superseded))
        pairs = self._pairs(asked, edits, parts, old)
        self._check_lengths(asked, edits)
        answers = self._ask(asked, edits, parts, pairs, old, progress)
        ledger = ResultTable(edits)
        for question in asked:
            self._judge(question, answers, ledger)
        if answers.scopes is not None:
            _judge_scopes(edits, asked, answers.scopes, ledger)
        for index, correction in corrected.items():
            self._judge_stale(index, correction, answers, ledger)
        if "fluency" in parts:
            for index, edit in enumerate(edits):
                ledger.add("fluency.generate", index, ngram_entropy(answers.long[edit.prompt].text))
                ledger.note("fluency.generate.text", index, answers.long[edit.prompt].text)
        extra: dict[str, float] = {}
        if "after_answer" in parts:
            extra |= self._judge_after_answers(edits, answers.long, ledger)
        if "zsre" in parts:
            self._judge_zsre(edits, answers.forced, ledger)
        if "counterfact" in parts:
            extra |= self._judge_counterfact(edits, answers.forced, ledger)
        if "perplexity" in parts:
            extra |= {"perplexity": self.perplexity(), "perplexity_base": self.base_perplexity()}
        return ledger.report(self.protocols, extra)

    def perplexity(self) -> float:
        """Perplexity of the model, edits active, on the fixed text; an alarm, not a score."""
        return perplexity(list(self._prober.scores(self._windows()).values()))

    def base_perplexity(self) -> float:
        """Perplexity of the unedited model on the fixed text; computed once."""
        return perplexity(list(self._prober.base_scores(self._windows()).values()))

    def _windows(self) -> list[Pair]:
        cut = windows(self._prober.tokenizer, self._text, self._prober.context)
        return [window.pair for window in cut]

    def _check_lengths(self, asked: Sequence[Question], edits: Sequence[Edit]) -> None:
        """Refuse prompts that do not fit, all at once."""
        problems = [
            f"edit {edits[q.edit].id}: {q.part} prompt '{q.prompt[:40]}...' with its answer has {len(self._room(q))} "
            f"tokens, the model's context is {self._prober.context}; shorten or remove it"
            for q in asked
            if self._too_long(q)
        ]
        if problems:
            raise DataError(problems)

    def _too_long(self, question: Question) -> bool:
        return self._prober.too_long(self._room(question))

    def _room(self, question: Question) -> Pair:
        """What a question needs room for: its prompt and the answer, or at least one new token."""
        if question.answer is None:
            return Pair(self._prober.prompt_ids(question.prompt), (0,))
        return self._prober.pair(question.prompt, question.answer)

    def _pairs(
        self,
        asked: Sequence[Question],
        edits: Sequence[Edit],
        parts: Sequence[str],
        old: Sequence[tuple[str, str]],
    ) -> list[Pair]:
        """Every (prompt, given answer) that must be scored by teacher forcing."""
        pairs: list[Pair] = []
        if "forced" in self.protocols:
            pairs += [self._prober.pair(q.prompt, q.answer) for q in asked if q.answer is not None]
            pairs += [self._prober.pair(prompt, answer) for prompt, answer in old]
        if "counterfact" in parts:
            for edit in edits:
                pairs += [self._prober.pair(prompt, answer) for prompt, answer in _contested(edit)]
        if "zsre" in parts:
            pairs += [self._prober.pair(prompt, answer) for edit in edits for _, prompt, answer in zsre_asked(edit)]
        return list(dict.fromkeys(pairs))

    def _ask(
        self,
        asked: Sequence[Question],
        edits: Sequence[Edit],
        parts: Sequence[str],
        pairs: Sequence[Pair],
        old: Sequence[tuple[str, str]],
        progress: MeasuringProgress | None,
    ) -> _Answers:
        """Run the models: every distinct request once."""
        prober, forced = self._prober, "forced" in self.protocols
        unrelated = list(dict.fromkeys(q.prompt for q in asked if q.part in LOCAL))
        asks: list[Ask] = []
        if "generate" in self.protocols:
            free = [self._free_ask(q) for q in asked]
            asks = list(dict.fromkeys([*free, *(prober.ask(prompt, answer) for prompt, answer in old)]))
        local = {Ask(prompt, prober.max_new_tokens) for prompt in unrelated}
        scoped = _scoped(edits, asked) if "scope" in parts else []
        written = "fluency" in parts or "after_answer" in parts
        long = list(dict.fromkeys(edit.prompt for edit in edits)) if written else []
        fresh = prober.unknown_to_base(unrelated)
        total = len(asks) + len(fresh) + len(pairs) + len(scoped) + len(long)
        if forced:
            total += len(unrelated) + len(fresh)
        meter = ProgressMeter(total, progress)

        answers = _Answers()
        answers.base_free = prober.base_answers(unrelated, meter)
        # Locality runs in batches of its own, the same as the base's: where rounding depends on the batch
        # (bfloat16), untouched rows still come out equal.
        answers.free = prober.answers([ask for ask in asks if ask in local], meter)
        answers.free |= prober.answers([ask for ask in asks if ask not in local], meter)
        answers.forced = prober.scores(pairs, meter)
        if forced:
            own = [Pair(prober.prompt_ids(p), c.ids) for p, c in answers.base_free.items()]
            answers.base_forced = prober.base_scores(own, meter)
            answers.forced |= prober.scores([p for p in own if p not in answers.forced], meter)
        if scoped:
            answers.scopes = prober.scopes(scoped, meter)
        answers.long = prober.long_texts(long, FLUENCY_TOKENS, meter)
        return answers

    def _free_ask(self, question: Question) -> Ask:
        """Locality answers are as long as the base's remembered ones; others have room for their target."""
        if question.part in LOCAL or question.answer is None:
            return Ask(question.prompt, self._prober.max_new_tokens)
        return self._prober.ask(question.prompt, question.answer)

    def _judge(self, question: Question, answers: _Answers, ledger: ResultTable) -> None:
        """Put the verdicts on one question into the ledger."""
        part, edit = question.part, question.edit
        if part in LOCAL:
            self._judge_locality(question, answers, ledger)
            part = "locality_answer"
        if question.answer is None:
            return
        if "generate" in self.protocols:
            said = answers.free[self._free_ask(question)]
            ledger.add(f"{part}.generate", edit, said.finished and same_answer(said.text, question.answer))
            if part == "reliability":
                ledger.note("reliability.generate.text", edit, said.text)
            elif part != "locality_answer":
                ledger.append(f"{part}.generate.texts", edit, said.text)
        if "forced" in self.protocols:
            pair = self._prober.pair(question.prompt, question.answer)
            scores = answers.forced[pair]
            ledger.add(f"{part}.forced", edit, scores.argmax == pair.target)
            if part == "reliability":
                ledger.note("reliability.forced.nll", edit, scores.nll)

    def _judge_locality(self, question: Question, answers: _Answers, ledger: ResultTable) -> None:
        base = answers.base_free[question.prompt]
        name = f"locality.{question.part}" if question.part in NEAR else "locality"
        if "generate" in self.protocols:
            said = answers.free[self._free_ask(question)]
            ledger.add(f"{name}.generate", question.edit, same_continuation(said, base))
            ledger.append(f"{name}.generate.texts", question.edit, said.text)
            ledger.append(f"{name}.base_texts", question.edit, base.text)
        if "forced" in self.protocols:
            pair = Pair(self._prober.prompt_ids(question.prompt), base.ids)
            same = same_predictions(answers.forced[pair], answers.base_forced[pair])
            ledger.add(f"{name}.forced", question.edit, same)

    def _judge_stale(self, index: int, correction: Correction, answers: _Answers, ledger: ResultTable) -> None:
        """For each prompt of a corrected fact, whether it still gets an answer that was superseded."""
        prober = self._prober
        for prompt in correction.prompts:
            if "generate" in self.protocols:
                said = {old: answers.free[prober.ask(prompt, old)] for old in correction.superseded}
                stale = any(one.finished and same_answer(one.text, old) for old, one in said.items())
                ledger.add("stale.generate", index, stale)
                ledger.append("stale.generate.texts", index, next(iter(said.values())).text)
            if "forced" in self.protocols:
                pairs = [prober.pair(prompt, old) for old in correction.superseded]
                ledger.add("stale.forced", index, any(answers.forced[p].argmax == p.target for p in pairs))

    def _judge_after_answers(
        self, edits: Sequence[Edit], long: Mapping[str, Continuation], ledger: ResultTable
    ) -> dict[str, float]:
        """Losses under the base of what comes after the answers, beside those of the base's own text there."""
        prober, found = self._prober, dict[int, Pair]()
        for index, edit in enumerate(edits):
            said, target = long[edit.prompt].ids, prober.pair(edit.prompt, edit.target)
            end = answer_end(said, target.target, prober.stopped(prober.ask(edit.prompt, edit.target), said))
            if end is not None:
                found[index] = Pair((*target.prompt, *said[:end]), tuple(said[end:]))
        own = prober.base_long_texts((pair.prompt for pair in found.values()), FLUENCY_TOKENS)
        beside = {i: Pair(pair.prompt, own[pair.prompt][: len(pair.target)]) for i, pair in found.items()}
        scores = prober.base_scores([*found.values(), *beside.values()])
        for index, pair in found.items():
            ledger.add(EDITED, index, scores[pair].nll)
            ledger.add(OWN, index, scores[beside[index]].nll)
        if not found:
            return {}
        means = {EDITED: [scores[p].nll for p in found.values()], OWN: [scores[p].nll for p in beside.values()]}
        return loss_ratio({name: fmean(values) for name, values in means.items()})

    def _judge_zsre(self, edits: Sequence[Edit], forced: dict[Pair, TokenScores], ledger: ResultTable) -> None:
        for index, edit in enumerate(edits):
            for name, prompt, answer in zsre_asked(edit):
                pair = self._prober.pair(prompt, answer)
                ledger.add(name, index, token_accuracy(forced[pair].argmax, pair.target))

    def _judge_counterfact(
        self, edits: Sequence[Edit], forced: dict[Pair, TokenScores], ledger: ResultTable
    ) -> dict[str, float]:
        """CounterFact's scores of every edit with a ground truth; returns S, which has no rows."""

        def contest(edit: Edit, prompt: str) -> Contest:
            pair = self._prober.pair
            truth = edit.ground_truth or ""
            return Contest(forced[pair(prompt, edit.target)].nll, forced[pair(prompt, truth)].nll)

        records = []
        for index, edit in enumerate(edits):
            if not edit.ground_truth:
                continue
            record = Record(
                rewrite=contest(edit, edit.prompt),
                paraphrases=[contest(edit, text) for text in edit.heldout_rephrases],
                neighborhood=[contest(edit, text) for text in _neighborhood(edit)],
            )
            records.append(record)
            for name, value in record.scores().items():
                ledger.add(name, index, value)
        scores = counterfact_scores(records)
        return {name: scores[name] for name in ("counterfact.S",) if name in scores}


def _neighborhood(edit: Edit) -> list[str]:
    """CounterFact's neighbourhood prompts: locality prompts whose true answer is the edit's true answer."""
    truth = edit.ground_truth or ""
    return [p.prompt for p in edit.locality if p.answer is None or same_answer(p.answer, truth)]


def _contested(edit: Edit) -> list[tuple[str, str]]:
    """All (prompt, answer) that CounterFact's scores of an edit compare."""
    if not edit.ground_truth:
        return []
    prompts = (edit.prompt, *edit.heldout_rephrases, *_neighborhood(edit))
    return [(prompt, answer) for prompt in prompts for answer in (edit.target, edit.ground_truth)]


def _scoped(edits: Sequence[Edit], asked: Sequence[Question]) -> list[str]:
    """All distinct prompts whose scope is asked for."""
    return list(dict.fromkeys(prompt for _, _, prompt in _scope_prompts(edits, asked)))


def _scope_prompts(edits: Sequence[Edit], asked: Sequence[Question]) -> list[tuple[str, int, str]]:
    """(figure, edit, prompt): those of every edit, then those of kinds that are asked about."""
    named = []
    for index, edit in enumerate(edits):
        named.append(("scope.edits", index, edit.prompt))
        named += [("scope.rephrases", index, text) for text in edit.heldout_rephrases]
        named += [("scope.locality", index, probe.prompt) for probe in edit.locality]
    return named + [(f"scope.{q.part}", q.edit, q.prompt) for q in asked if q.part in (*NEAR, "alias")]


def _judge_scopes(
    edits: Sequence[Edit], asked: Sequence[Question], scopes: dict[str, bool], ledger: ResultTable
) -> None:
    for name, index, prompt in _scope_prompts(edits, asked):
        ledger.add(name, index, scopes[prompt])
