"""The memory of subject and answer keys, against loops written out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import elder.mixture.keys as keys_module
from elder.mixture.keys import ANYWHERE, UNNAMED, KeyMemory, Match, late_interaction

B, T, E, J, S, Q = 5, 7, 9, 3, 4, 6
CPU = torch.device("cpu")


def random_units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def masks(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Which prompt tokens and which subject tokens are real; one edit has none at all."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.rand(B, T, generator=generator) > 0.3
    prompt[:, 0] = True
    real = torch.rand(E, J, S, generator=generator) > 0.4
    real[2] = False
    real[3, 1:] = False
    real[:, 0, 0] |= torch.arange(E) != 2
    return prompt, real


def subject_by_loop(tokens: Tensor, prompt: Tensor, subject: Tensor, real: Tensor) -> Tensor:
    result = torch.full((len(tokens), len(subject)), -1.0)
    for b in range(len(tokens)):
        for e in range(len(subject)):
            means = []
            for j in range(subject.shape[1]):
                best = [
                    max(float(tokens[b, t] @ subject[e, j, s]) for t in range(tokens.shape[1]) if prompt[b, t])
                    for s in range(subject.shape[2])
                    if real[e, j, s]
                ]
                if best:
                    means.append(sum(best) / len(best))
            result[b, e] = max(means, default=-1.0)
    return result


def test_late_interaction_equals_the_loop() -> None:
    prompt, real = masks()
    tokens, subject = random_units(B, T, Q), random_units(E, J, S, Q, seed=1)
    found = late_interaction(tokens, prompt, subject, real)
    torch.testing.assert_close(found, subject_by_loop(tokens, prompt, subject, real))
    assert found[:, 2].eq(-1).all()


def test_late_interaction_does_not_see_padding_on_either_side() -> None:
    prompt, real = masks()
    tokens, subject = random_units(B, T, Q), random_units(E, J, S, Q, seed=1)
    before = late_interaction(tokens, prompt, subject, real)
    changed_tokens, changed_subject = tokens.clone(), subject.clone()
    changed_tokens[~prompt] = random_units(int((~prompt).sum()), Q, seed=8)
    changed_subject[~real] = random_units(int((~real).sum()), Q, seed=9)
    assert torch.equal(late_interaction(changed_tokens, prompt, changed_subject, real), before)


def filled(width: int = Q, key_width: int = 99) -> KeyMemory:
    """A memory of E edits, some of whose subject tokens are padding."""
    memory = KeyMemory(width, key_width, S, J, 0, CPU)
    generator = torch.Generator().manual_seed(5)
    memory.subject_center, memory.answer_center = torch.randn(2, width, generator=generator)
    q = memory.width
    memory.add(random_units(4, J, S, q, seed=1), masks()[1][:4], random_units(4, J, q, seed=2))
    memory.add(random_units(E - 4, J, S, q, seed=3), masks()[1][4:], random_units(E - 4, J, q, seed=4))
    return memory


def match_by_loop(memory: KeyMemory, states: Tensor, prompt: Tensor, last: Tensor, s_at: float, a_at: float) -> list:
    tokens = memory.unit(states, memory.subject_center)
    query = memory.unit(last, memory.answer_center)
    subject = subject_by_loop(tokens, prompt, memory.subject, memory.real)
    rows = []
    for b in range(len(states)):
        answers = [max(float(query[b] @ memory.answer[e, j]) for j in range(J)) for e in range(E)]
        passing = [e for e in range(E) if subject[b, e] >= s_at and answers[e] >= a_at]
        best = max(passing or range(E), key=lambda e: float(subject[b, e]) + answers[e])
        rows.append((bool(passing), best, float(subject[b, best]), answers[best]))
    return rows


def ask(memory: KeyMemory, s_at: float, a_at: float, rows: int = 40) -> tuple[Match, tuple]:
    width = len(memory.subject_center)
    generator = torch.Generator().manual_seed(11)
    states, last = torch.randn(rows, T, width, generator=generator), torch.randn(rows, width, generator=generator)
    prompt = torch.rand(rows, T, generator=generator) > 0.2
    prompt[:, -1] = True
    return memory.match(states, prompt, last, s_at, a_at), (states, prompt, last, s_at, a_at)


@pytest.mark.parametrize(("s_at", "a_at"), [(0.8, 0.5), (0.0, 0.4), (-1.0, -1.0), (0.75, 0.3)])
def test_the_match_equals_the_loop(s_at: float, a_at: float) -> None:
    memory = filled()
    match, question = ask(memory, s_at, a_at)
    by_loop = match_by_loop(memory, *question)
    assert match.inside.tolist() == [inside for inside, *_ in by_loop]
    for b, (_, owner, subject, answer) in enumerate(by_loop):
        assert int(match.owner[b]) == owner
        assert float(match.subject[b]) == pytest.approx(subject, abs=1e-5)
        assert float(match.answer[b]) == pytest.approx(answer, abs=1e-5)


def test_thresholds_of_this_file_split_the_questions() -> None:
    inside = ask(filled(), 0.8, 0.5)[0].inside
    assert 0 < int(inside.sum()) < len(inside)


@pytest.mark.parametrize("floats", [1, 2000, 7000])
def test_chunks_make_no_difference(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = ask(filled(), 0.8, 0.5)
    monkeypatch.setattr(keys_module, "CHUNK_FLOATS", floats)
    parts, _ = ask(filled(), 0.8, 0.5)
    assert torch.equal(parts.inside, whole.inside)
    assert torch.equal(parts.owner, whole.owner)
    torch.testing.assert_close(parts.subject, whole.subject)
    torch.testing.assert_close(parts.answer, whole.answer)


def test_nothing_matches_an_empty_memory() -> None:
    match, _ = ask(KeyMemory(Q, 99, S, J, 0, CPU), -1.0, -1.0, rows=3)
    assert not match.inside.any()
    assert match.subject.tolist() == [-1.0] * 3


def test_e08_the_scope_only_shrinks_as_thresholds_rise() -> None:
    memory = filled()
    scopes = [ask(memory, t, t - 0.4)[0].inside for t in (0.0, 0.3, 0.6, 0.8, 0.95)]
    for wide, narrow in pairwise(scopes):
        assert not (narrow & ~wide).any()
    assert scopes[0].sum() > scopes[-1].sum()


def test_wide_models_are_projected_and_narrow_ones_are_not() -> None:
    wide, narrow = filled(width=40, key_width=6), filled(width=6, key_width=6)
    assert (wide.width, narrow.width) == (6, 6)
    assert narrow.projection is None
    states = torch.randn(3, 40)
    by_hand = (states - wide.answer_center) @ wide.projection
    torch.testing.assert_close(wide.unit(states, wide.answer_center), by_hand / by_hand.norm(dim=-1, keepdim=True))
    match, question = ask(wide, 0.8, 0.5)
    assert match.inside.tolist() == [row[0] for row in match_by_loop(wide, *question)]
    assert torch.equal(KeyMemory(40, 6, S, J, 7, CPU).projection, KeyMemory(40, 6, S, J, 7, CPU).projection)


def test_a_projection_keeps_cosines_roughly() -> None:
    memory = KeyMemory(512, 128, S, J, 0, CPU)
    states = torch.randn(60, 512)
    states[30:] = states[:30] + 0.3 * torch.randn(30, 512)
    full, kept = F.normalize(states, dim=-1), memory.unit(states, torch.zeros(512))
    assert (full @ full.T - kept @ kept.T).abs().mean() < 0.1


def test_state_is_taken_over_exactly_and_is_a_copy() -> None:
    memory, other = filled(), KeyMemory(Q, 99, S, J, 0, CPU)
    state = memory.state()
    other.load(state)
    one, two = ask(memory, 0.8, 0.5)[0], ask(other, 0.8, 0.5)[0]
    assert torch.equal(one.inside, two.inside)
    assert torch.equal(one.subject, two.subject)
    assert len(other) == E
    memory.real[0] = False
    assert state["real"][0].any()
    assert other.real[0].any()


def test_an_heir_answers_where_those_that_it_replaced_match() -> None:
    memory = filled()
    own = int(memory.real[5].any(-1).nonzero()[0])
    tokens = memory.subject[5, own][memory.real[5, own]] + memory.subject_center
    last = memory.answer[5, :1] + memory.answer_center

    def owners(memory: KeyMemory) -> tuple[list[bool], list[int]]:
        match = memory.match(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool), last, 0.99, 0.99)
        return match.inside.tolist(), match.owner.tolist()

    before = memory.snapshot()
    assert owners(memory) == ([True], [5])
    memory.hand_over(5, 6)
    assert owners(memory) == ([True], [6])
    memory.hand_over(6, 8)
    assert owners(memory) == ([True], [8])
    assert memory.heir.tolist() == [0, 1, 2, 3, 4, 8, 8, 7, 8]
    assert owners(before) == ([True], [5])


def test_a_moving_centre_is_the_mean_of_what_is_stored_and_does_not_see_batches() -> None:
    states = torch.randn(E, J, 12, generator=torch.Generator().manual_seed(5)) * 3 + 40
    nothing, none = torch.zeros(E, J, S, Q), torch.zeros(E, J, S, dtype=torch.bool)

    def made(sizes: list[int]) -> KeyMemory:
        memory = KeyMemory(12, Q, S, J, 0, CPU, moving=True)
        memory.answer_center, memory.answer_scale = torch.full((12,), 38.0), torch.tensor(10.0)
        for begin, end in pairwise([0, *sizes, E]):
            memory.add(nothing[begin:end], none[begin:end], memory.stored_answer(states[begin:end]))
        return memory

    whole, pieces = made([]), made([1, 4])
    assert torch.equal(whole.answers, pieces.answers)
    assert torch.equal(whole.moved, pieces.moved)
    assert whole.projection is not None
    stored = ((states - 38) @ whole.projection / 10).half().float()
    center = stored.flatten(0, 1).sum(0) / ((E + keys_module.PRIOR) * J)
    torch.testing.assert_close(whole.answers, F.normalize(stored - center, dim=-1), atol=1e-5, rtol=0)
    other = KeyMemory(12, Q, S, J, 0, CPU, moving=True)
    other.load(whole.state())
    assert torch.equal(other.answers, whole.answers)
    assert torch.equal(other.as_units(other.stored_answer(states)), whole.as_units(whole.stored_answer(states)))


def test_each_edit_may_have_a_threshold_of_its_own() -> None:
    memory = filled()
    own = int(memory.real[5].any(-1).nonzero()[0])
    tokens = (memory.subject[5, own][memory.real[5, own]] + memory.subject_center)[None]
    least, last = torch.full((E,), 0.99), memory.answer[5, :1] + memory.answer_center
    prompt = torch.ones(tokens.shape[:2], dtype=torch.bool)
    assert memory.match(tokens, prompt, last, 0.99, least).inside.tolist() == [True]
    least[5] = 2.0
    assert memory.match(tokens, prompt, last, 0.99, least).inside.tolist() == [False]


def test_keys_are_kept_in_half_precision_so_that_saving_loses_nothing() -> None:
    memory = filled()
    assert memory.state()["answer"].dtype == torch.float16
    other = KeyMemory(Q, 99, S, J, 0, CPU)
    other.load(memory.state())
    for name in ("subject", "real", "answer", "subject_center", "answer_center"):
        assert torch.equal(getattr(other, name), getattr(memory, name))


# ---- where a subject stands ------------------------------------------------------------------------------------------


def found(prompt: list[int], reach: int, cut: list[int] | None = None, real: list[int] | None = None) -> float:
    """How well the subject with the tokens 1 and 2 is found in a prompt; tokens are orthogonal."""
    subject, named = torch.zeros(1, 1, 3, Q), torch.tensor([[[True, True, False]]])
    subject[0, 0, :2] = torch.eye(Q)[1:3]
    there = torch.tensor([real or [1] * len(prompt)]).bool()
    cuts = None if cut is None else torch.tensor([cut]).bool()
    return float(late_interaction(torch.eye(Q)[prompt][None], there, subject, named, torch.tensor([reach]), cuts))


def test_a_subject_counts_within_its_reach_only() -> None:
    assert found([0, 1, 2, 3, 4], reach=2) == 1.0
    assert found([0, 1, 2, 3, 4], reach=ANYWHERE) == 1.0
    assert found([1, 2, 3, 4, 5], reach=2) == 0.5  # its first token is one too far away
    assert found([1, 2, 3, 4, 5], reach=1) == 0.0
    assert found([1, 2, 3, 4, 1, 2, 3], reach=2) == 1.0  # the last time counts


def test_padding_does_not_take_a_subject_further_away() -> None:
    assert found([1, 2, 3, 4, 0, 0], reach=2, real=[1, 1, 1, 1, 0, 0]) == 1.0
    assert found([0, 0, 1, 2, 3, 4], reach=2, real=[0, 0, 1, 1, 1, 1]) == 1.0
    assert found([1, 2, 3, 4, 0, 0], reach=2) == 0.0


def test_a_subject_that_goes_on_within_a_word_is_not_found() -> None:
    assert found([0, 1, 2, 3], reach=ANYWHERE, cut=[0, 0, 1, 0]) < 0.1
    assert found([0, 1, 2, 3], reach=ANYWHERE, cut=[0, 1, 0, 0]) == 1.0  # tokens of its own word go on
    assert found([1, 2, 3, 1, 2, 4], reach=ANYWHERE, cut=[0, 1, 0, 0, 0, 0]) == 1.0  # it stands there alone as well
    assert found([0, 1, 2, 3], reach=UNNAMED, cut=[0, 0, 1, 0]) == 1.0  # keys that name no subject are no words
