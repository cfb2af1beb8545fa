"""Our loader and lm-evaluation-harness agree on the same items, its own model for a base and ours for an edited one.

Skipped where the library is not installed (the extra `harness`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from elder.ability.files import read_tasks
from elder.ability.item import Item
from elder.ability.measure import AbilityMeter, ask
from elder.ability.tasks import TASKS
from elder.base import Base, Editor
from elder.harness import ElderLM
from elder.metrics.batching import ProgressMeter
from elder.metrics.completions import Completer
from tests.elder.ability.tiny_tasks import RECORDS
from tests.elder.metrics.test_completions import learnt

SHORT = {
    "sst2": [
        {"sentence": f"{word} film", "label": n % 2}
        for n, word in enumerate(["a", "my", "no", "one", "the", "any", "his"])
    ],
    "rte": [{"sentence1": f"{n} cats.", "sentence2": f"{n} pets", "label": n % 2} for n in range(9)],
    "gsm8k": [{"question": f"{n}+1?", "answer": f"easy\n#### {n + 1}"} for n in range(9)],
}


@pytest.fixture(scope="module")
def editor(base_of: Callable[..., Base]) -> Editor:
    return learnt(base_of("llama"), "elder-plus")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Item, ...]]:
    folder = tmp_path_factory.mktemp("tasks")
    for name, records in SHORT.items():
        lines = [*records, *RECORDS[name]]
        (folder / TASKS[name].file).write_text("".join(f"{json.dumps(record)}\n" for record in lines))
    return read_tasks(folder, tuple(SHORT))


def by_harness(model: Any, folder: Path, tasks: Mapping[str, tuple[Item, ...]]) -> dict[str, list[Any]]:
    """For each item what the harness found: right or wrong for choices, the answer for the others."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    for name, items in tasks.items():
        data = folder / f"{name}.jsonl"
        rows = [{"p": i.prompt, "c": i.choices, "g": i.choices.index(i.gold[0]) if i.choices else 0} for i in items]
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        head = f"task: own_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
        head += "test_split: test\ndoc_to_text: '{{p}}'\n"
        ask_for = (
            "output_type: multiple_choice\ndoc_to_choice: '{{c}}'\ndoc_to_target: g\ntarget_delimiter: ''\n"
            "metric_list:\n  - metric: acc\n"
            if TASKS[name].kind == "choice"
            else "output_type: generate_until\ndoc_to_target: ''\ngeneration_kwargs:\n  until: []\n  do_sample: false\n"
            f"  max_gen_toks: {TASKS[name].limit}\nmetric_list:\n  - metric: exact_match\n"
        )
        (folder / f"own_{name}.yaml").write_text(head + ask_for)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = [f"own_{name}" for name in tasks]
    found = simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True)
    samples = {name: sorted(found["samples"][f"own_{name}"], key=lambda one: one["doc_id"]) for name in tasks}
    return {
        name: [one["acc"] if "acc" in one else one["filtered_resps"][0] for one in rows]
        for name, rows in samples.items()
    }


def by_us(subject: Editor | Base, tasks: Mapping[str, tuple[Item, ...]]) -> dict[str, tuple[float, ...]]:
    return {
        name: ask(Completer(subject, 4), TASKS[name], items, ProgressMeter(len(items)))[name].values
        for name, items in tasks.items()
    }


def assert_same(theirs: dict[str, list[Any]], ours: dict[str, tuple[float, ...]], tasks: Mapping[str, Any]) -> None:
    for name, items in tasks.items():
        task = TASKS[name]
        scored = [
            one if task.kind == "choice" else task.judge(one, item)
            for one, item in zip(theirs[name], items, strict=True)
        ]
        assert tuple(scored) == ours[name], name


def test_the_harness_s_own_model_scores_the_items_of_a_base_alike(
    editor: Editor, tasks: Mapping[str, tuple[Item, ...]], tmp_path: Path
) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    base = editor.base
    model = huggingface.HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=3, max_length=256)
    ours = by_us(base, tasks)
    assert_same(by_harness(model, tmp_path, tasks), ours, tasks)
    assert any(0 < sum(values) < len(values) for values in ours.values())  # they could have differed


def test_an_edited_model_scores_alike_in_the_harness(
    editor: Editor, tasks: Mapping[str, tuple[Item, ...]], tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    ours = by_us(editor, tasks)
    assert_same(by_harness(ElderLM(editor, batch_size=3), tmp_path, tasks), ours, tasks)
    measured = AbilityMeter(editor, tasks, 4).measure()
    assert {name: measured[name]["after"]["value"] for name in tasks} == {
        name: pytest.approx(sum(values) / len(values)) for name, values in ours.items()
    }
