"""When a model counts as knowing a fact."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.edit import Edit
from elder.metrics.known import gives, known_facts
from elder.models.load import load_base
from elder.runtime import LocalRuntime
from tests.cluster.tiny import make_edits, write_model

CAPITAL = "The capital of France is"


@pytest.mark.parametrize(
    ("answer", "truth", "chat", "known"),
    [
        ("Paris. It lies on the Seine.", "Paris", False, True),
        ("the United States.", "the United States", False, True),
        ("Washington, D.C., of course", "Washington, D.C.", False, True),
        ("Parisian", "Paris", False, False),
        ("a city called Paris", "Paris", False, False),
        ("", "Paris", False, False),
        ("The capital of France is Paris.", "Paris", False, False),
        ("The capital of France is Paris.", "Paris", True, True),
        ("The capital of France is Lyon, not Paris.", "Paris", True, False),
        ("France's capital is Paris.", "Paris", True, True),
        ("Its capital is Washington, D.C. indeed", "Washington, D.C.", True, True),
        ("I cannot say. Some think of Paris.", "Paris", True, False),
        ("Lyon. Paris is smaller.", "Paris", True, False),
        ("?", "?", False, True),
    ],
)
def test_an_answer_gives_the_old_one_or_not(answer: str, truth: str, chat: bool, known: bool) -> None:
    assert gives(answer, CAPITAL, truth, chat) is known


def test_it_asks_in_order_until_there_are_enough(tmp_path: Path) -> None:
    base = load_base(str(write_model(tmp_path, "llama", "5GB")), runtime=LocalRuntime("cpu"))
    prompts = [edit.prompt for edit in make_edits(6)]
    unasked = known_facts(base, [Edit(p, "x", ground_truth="never said") for p in prompts], None, 8, 4)
    assert (unasked.kept, unasked.asked, sorted(unasked.said)) == ((), 6, list(range(6)))
    said = [unasked.said[i] for i in range(6)]
    assert all(said)
    edits = [Edit(p, "x", ground_truth=s if i % 2 else "never said") for i, (p, s) in enumerate(zip(prompts, said))]
    told: list[tuple[int, int]] = []
    found = known_facts(base, edits, None, 8, 4, lambda done, of: told.append((done, of)))
    assert (found.kept, found.asked, dict(found.said)) == ((1, 3, 5), 6, {i: said[i] for i in (0, 2, 4)})
    assert told == [(6, 6)]
    enough = known_facts(base, edits, 2, 8, 4)
    assert (enough.kept, enough.asked, sorted(enough.said)) == ((1, 3), 4, [0, 2])
    assert known_facts(base, [Edit(prompts[0], "x")], None, 8, 4).kept == ()
