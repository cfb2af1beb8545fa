"""The pure parts: answer matching, entropy, perplexity windows, CounterFact's scores, retention."""

from __future__ import annotations

import math

import pytest

from elder.edit import Edit
from elder.metrics.counterfact import Contest, Record, counterfact_scores, harmonic_mean
from elder.metrics.fluency import entropy, ngram_entropy
from elder.metrics.generation import Continuation
from elder.metrics.locality import same_continuation
from elder.metrics.perplexity import TEXT, perplexity, windows
from elder.metrics.report import EvaluationReport
from elder.metrics.retention import retention_summary
from elder.metrics.scoring import TokenScores
from elder.metrics.text import normalise, same_answer


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("Paris.", "Paris"),
        ("the  PARIS", "Paris"),
        ("U.S.", "US"),
        ("“Paris”", "paris"),
        ("an apple a day", "apple day"),
        ("Straße", "STRASSE"),
        ("A", "a"),
        ("?", "?"),
    ],
)
def test_equal_answers(answer, target):
    assert same_answer(answer, target)


@pytest.mark.parametrize(
    ("answer", "target"),
    [("Paris, France", "Paris"), ("Pari", "Paris"), ("", "Paris"), ("", "A"), ("the", "?"), ("not Paris", "Paris")],
)
def test_different_answers(answer, target):
    assert not same_answer(answer, target)


def test_normalise():
    assert normalise(" The  Café-au-lait, please! ") == "caféaulait please"


def test_the_same_text_in_other_tokens_or_without_its_stop_is_another_continuation():
    base = Continuation((5, 6, 1), "Oslo", True)
    assert same_continuation(Continuation((5, 6, 1), "Oslo", True), base)
    assert not same_continuation(Continuation((5, 6), "Oslo", False), base)
    assert not same_continuation(Continuation((7, 1), "Oslo", True), base)


def test_entropy_of_known_distributions():
    assert entropy(["a", "b", "a", "b", "a"], 1) == pytest.approx(-(0.6 * math.log2(0.6) + 0.4 * math.log2(0.4)))
    assert entropy(["w", "x", "y", "z"], 1) == pytest.approx(2.0)
    assert ngram_entropy("go go go go go go") == 0.0
    assert ngram_entropy("") == 0.0
    distinct = "a b c d e"  # 4 bigrams, 3 trigrams, all different
    assert ngram_entropy(distinct) == pytest.approx(2 / 3 + 2 / 3 * math.log2(3))


def test_the_text_is_long_enough():
    assert len(TEXT.split()) >= 200


@pytest.mark.parametrize("context", [None, 64, 33])
def test_windows_score_every_token_behind_the_first_half_once(byte_tokenizer, context):
    text = "".join(chr(97 + i % 26) for i in range(1000))
    ids = byte_tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = windows(byte_tokenizer, text, context)
    first = len(cut[0].context) - 1
    assert [token for window in cut for token in window.scored] == ids[first:]
    assert {window.context[0] for window in cut} == {byte_tokenizer.bos_token_id}
    assert max(len(w.context) + len(w.scored) for w in cut) <= (context or 256)
    assert all(len(w.context) - 1 >= first for w in cut)
    for window in cut:
        assert byte_tokenizer.bos_token_id not in window.scored


def test_windows_of_short_texts(byte_tokenizer):
    (window,) = windows(byte_tokenizer, "abcd", 64)
    assert (len(window.context), len(window.scored)) == (3, 2)
    with pytest.raises(ValueError, match="two tokens"):
        windows(byte_tokenizer, "a", 64)


def test_perplexity_weighs_tokens_not_windows():
    scores = [TokenScores((1,), (1.0,)), TokenScores((1, 1, 1), (3.0, 3.0, 3.0))]
    assert perplexity(scores) == pytest.approx(math.exp(2.5))
    assert perplexity([TokenScores((1,), (1e6,))]) < math.inf


def test_counterfact_scores_of_records():
    """Two records by hand; averages are per record, then over records."""
    win, lose, tie = Contest(new=1.0, true=2.0), Contest(new=2.0, true=1.0), Contest(new=1.0, true=1.0)
    first = Record(rewrite=win, paraphrases=[win, lose], neighborhood=[lose] * 10)
    second = Record(rewrite=win, paraphrases=[win], neighborhood=[win, lose, tie, lose])
    scores = counterfact_scores([first, second])
    gap = math.exp(-1) - math.exp(-2)
    assert scores["counterfact.ES"] == 1.0
    assert scores["counterfact.PS"] == 0.75
    assert scores["counterfact.NS"] == 0.75  # (1 + 2/4) / 2: a tie is no success
    assert scores["counterfact.EM"] == pytest.approx(gap)
    assert scores["counterfact.PM"] == pytest.approx(gap / 2)
    assert scores["counterfact.NM"] == pytest.approx((gap + gap / 4) / 2)
    assert scores["counterfact.S"] == pytest.approx(3 / (1 + 2 / 0.75))


def test_counterfact_score_is_of_means_not_of_records():
    """One record wins all, one loses all: the mean of per-record harmonic means would be 0.5 as well as 0."""
    win, lose = Contest(1.0, 2.0), Contest(2.0, 1.0)
    records = [Record(win, [lose], [lose]), Record(win, [win], [win])]
    assert counterfact_scores(records)["counterfact.S"] == pytest.approx(3 / (1 + 2 + 2))
    assert "counterfact.S" not in counterfact_scores([Record(win)])
    assert counterfact_scores([]) == {}
    assert harmonic_mean([1.0, 0.0]) == 0.0


def test_retention_summary_by_hand():
    """R2: row i is measured with the state after stage i."""
    summary = retention_summary([[0.9], [0.8, 1.0], [0.6, 0.9, 0.8]])
    assert summary == pytest.approx(
        {
            "retention.immediate": 0.9,
            "retention.final": (0.6 + 0.9 + 0.8) / 3,
            "retention.average": (0.8 + 0.6 + 0.9) / 3,
            "retention.backward_transfer": ((0.6 - 0.9) + (0.9 - 1.0)) / 2,
            "retention.first_last_gap": 0.2,
        }
    )


def test_retention_summary_of_small_matrices():
    assert retention_summary([]) == {}
    assert retention_summary([[0.5]]) == {"retention.immediate": 0.5, "retention.final": 0.5}
    assert retention_summary([[0.5, 9.0], [0.5, 0.5]])["retention.final"] == 0.5
    with pytest.raises(ValueError, match="row 1"):
        retention_summary([[1.0], [1.0]])


def test_worst_rows_first():
    rows = [
        {"edit_id": "good", "reliability.generate": 1.0, "generalization.generate": 1.0},
        {"edit_id": "bad", "reliability.generate": 0.0, "generalization.generate": 0.5},
        {"edit_id": "half", "reliability.generate": 1.0, "generalization.generate": 0.5},
        {"edit_id": "unknown"},
    ]
    report = EvaluationReport({}, rows, protocols=("generate",))
    assert [row["edit_id"] for row in report.worst(2)] == ["bad", "half"]


def test_training_and_heldout_rephrases_never_meet():
    """R3, for every number of rephrases and with repeated wordings."""
    for count in range(9):
        edit = Edit("p", "t", rephrases=tuple(f"r{i % 5}" for i in range(count)))
        assert not set(edit.training_prompts) & set(edit.heldout_rephrases)
