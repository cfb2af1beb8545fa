"""Made-up results of every kind that has a report, with what is awkward on a page, and the facts that a page shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from elder.pipelines.config.space import Domain
from elder.pipelines.pages.run_report import write_report
from elder.pipelines.search.report import write_tune_report
from elder.pipelines.suite.comparison_report import write_compare_report
from elder.pipelines.suite.study_report import read_published, write_study_report
from elder.pipelines.training.report import write_training_report

FACTS = Path(__file__).parent / "facts.json"
CONFIG = 'name: towns\nnote: "```fenced``` <b>"\n'

RUN: dict[str, Any] = {
    "run_id": "run-7",
    "config_digest": "c0ffee" * 10,
    "base_model": {"id": "world:small", "digest": "beef" * 16},
    "stages": [
        {"stage": i, "edits": 50, "state_digest": f"{i}a" * 32, "committed": i < 2,
         "metrics": {"reliability.generate": 1.0 - i / 8, "locality.forced": 0.5, "scope.edits": 1.0}}
        for i in range(3)
    ],
    "final": {"reliability.generate": 0.75, "generalization.generate": 0.625, "locality.forced": 0.5,
              "scope.edits": 1.0, "perplexity": 31.25, "retention.final": 0.7, "cost": 123456.0},
    "retention": [[1.0], [0.875, 0.75], [0.5, 0.25, 1.0]],
    "adapter": {"uri": "store/runs/run-7", "bytes": 3 * 2**20, "digest": "d4" * 32},
    "registered": {"name": "towns", "version": 3},
    "timing": {"load_s": 1.5, "edit_s": 20.25, "edits_per_s": 3.95},
}  # fmt: skip
ROWS = [
    {"edit_id": "e1", "prompt": "Ada | Bo <b>live</b> in", "target": "Par\nis", "reliability.generate": 0.0,
     "reliability.generate.text": "Rome & more"},
    {"edit_id": "e2", "prompt": "Cy lives in", "target": "Lima", "reliability.generate": 1.0},
    {"edit_id": "e3", "prompt": "long " * 40, "target": "x", "reliability.generate": 1.0, "generalization.forced": 0.5},
]  # fmt: skip
PARTS: dict[str, Any] = {
    "examples": [{"prompt": "Ada lives in", "target": "Paris", "before": "Rome", "after": "Paris"}],
    "references": [
        {"source": "A. Author, A paper, table 1", "setting": "1000 edits", "rows": [{"method": "GRACE", "Rel": 96.8}]},
        {"source": "B. Author", "rows": [{"method": "OTHER", "Gen": 7}, {"method": "THIRD", "Rel": 1.0}]},
    ],
    "losses": [[2.0, 0.5], [1.5, 0.25]],
    "config": CONFIG,
}

TRAINING: dict[str, Any] = {
    **{key: RUN[key] for key in ("config_digest", "base_model", "adapter", "registered", "timing")},
    "run_id": "training-1",
    "method": "mend",
    "chosen": 1,
    "stages": [
        {"stage": i, "edits": 20, "committed": i < 2, "state_digest": f"{i}b" * 32,
         "metrics": {"validation.ES": i / 4, "validation.GS": 0.5, "validation.loss": 2.0 - i}}
        for i in range(3)
    ],
}  # fmt: skip

SPACE = {"editor.lr": Domain("loguniform", (1e-5, 1e-1)), "editor.layers": Domain("choice", ([1, 2], [2, 3]))}
X, Y = "reliability.generate", "locality.generate"


def trial(name: str, lr: float, status: str, objective: float | None, error: str | None = None) -> dict[str, Any]:
    """One row of a search's result; the better its reliability, the worse its locality."""
    return {
        "trial": name, "status": status, "parameters": {"editor.lr": lr, "editor.layers": [1, 2]}, "stages": 2,
        "objective": objective, "metrics": {} if objective is None else {X: objective, Y: 1 - objective / 2},
        "seconds": 3.25, "error": error,
    }  # fmt: skip


SEARCH: dict[str, Any] = {
    "tune_id": "search-1",
    "config_digest": "abcd" * 16,
    "objective": {"metrics": [X, Y], "mode": "max"},
    "best": {"trial": "t0002", "run_id": "search-1-t0002", "parameters": {"editor.lr": 0.001, "editor.layers": [2, 3]},
             "objective": 0.81234, "mean": 0.8, "spread": 0.0125, "metrics": {}, "config": "store/best.yaml"},
    "trials": [trial("t0000", 0.01, "finished", 0.25), trial("t0001", 0.1, "failed", None, "no | memory\nat line 7"),
               trial("t0002", 0.001, "finished", 0.8125), trial("t0003", 0.002, "pruned", 0.5)],
    "finalists": [
        {"rank": 1, "trial": "t0002", "seeds": [0, 1], "objectives": [0.8, 0.75], "mean": 0.775, "spread": 0.025},
        {"rank": 2, "trial": "t0000", "seeds": [0], "objectives": [0.25], "mean": None, "spread": None},
    ],
    "pareto": [{"trial": "t0000", X: 0.25, Y: 0.875}, {"trial": "t0002", X: 0.8125, Y: 0.59375}],
    "importance": {"editor.lr": 0.75, "editor.layers": 0.25},
    "importance_over": "40 trials",
    "registered": {"name": "towns", "version": 4},
    "timing": {"wall_s": 12.5, "runs": 4},
}  # fmt: skip

FIRST = {"reliability.generate": 0.875, "locality_answer.forced": 0.5, "counterfact.ES": 1.0, "counterfact.S": 0.25}
LAST = {**FIRST, "reliability.generate": 0.625, "retention.backward_transfer": -0.125}
COMPARISON: dict[str, Any] = {
    "compare_id": "compare-1",
    "strategy": "sequential",
    "strategy_means": "one edit after another",
    "right_after_means": "right after each edit's own stage",
    "seed": 3,
    "dataset": {"name": "counterfact", "digest": "fedc" * 16, "count": 100},
    "methods": {
        "memit": {"final": LAST, "stages": [{**stage, "committed": True} for stage in RUN["stages"]],
                  "retention": RUN["retention"], "editor": "memit",
                  "timing": {"edits_per_s": 0.5}, "adapter": {"bytes": 2048}, "error": None},
        "mine": {"final": {"retention.first_last_gap": 0.5}, "stages": [], "error": "stopped | <here>"},
    },
    "status": {"memit": "finished", "mine": "failed"},
    "right_after": {"memit": FIRST, "mine": {}},
    "failed": {"mine": "stopped | <here>"},
}  # fmt: skip


def study_run(method: str, strategy: str, value: int, **more: Any) -> dict[str, Any]:
    """One entry of a study's result."""
    return {"run_id": "x", "part": "p", "axis": "batch_size", "method": method, "editor": method, "strategy": strategy,
            "value": value, "edits": 100, "status": "finished", "error": None, "seconds_per_edit": 1.5,
            "right_after": {**FIRST, "counterfact.PS": 0.5}, "final": LAST, **more}  # fmt: skip


STUDY_RUNS = [
    study_run("memit", "batch", 1),
    study_run("memit", "batch", 16, edits=12),
    study_run("emmet", "batch", 16, status="failed", error="no memory"),
    study_run("memit", "sequential", 1, part="q"),
    *(study_run("rome", "single", block, part="layers", axis="layers") for block in range(3)),
]
STUDY: dict[str, Any] = {
    "study_id": "study-1",
    "base_model": {"id": "/a/place/model-x", "digest": "0123456789abcdef"},
    "seed": 7,
    "dataset": {"name": "counterfact", "digest": "fedcba9876543210", "count": 100},
    "runs": {f"r{i}": one for i, one in enumerate(STUDY_RUNS)},
    "failed": {"r2": "no memory"},
}

WRITERS: dict[str, Callable[[Path], object]] = {
    "run": lambda folder: write_report(folder, RUN, ROWS, title="towns & people", **PARTS),
    "bare run": lambda folder: write_report(
        folder, {**RUN, "stages": [], "final": {}, "retention": [], "registered": None}
    ),
    "long run": lambda folder: write_report(folder, {**RUN, "retention": [[0.5] * (i + 1) for i in range(30)]}),
    "training": lambda folder: write_training_report(folder, TRAINING, [3.0, 2.5, 2.0], "mend & co", CONFIG),
    "search": lambda folder: write_tune_report(folder, SEARCH, SPACE, CONFIG),
    "small search": lambda folder: write_tune_report(
        folder,
        {**SEARCH, "importance": None, "importance_over": "too few", "finalists": [], "pareto": [], "registered": None,
         "trials": SEARCH["trials"][:1], "best": {**SEARCH["best"], "mean": None, "spread": None},
         "objective": {"metrics": [X], "mode": "min"}},
        SPACE,
        CONFIG,
    ),
    "comparison": lambda folder: write_compare_report(folder, COMPARISON, CONFIG),
    "comparison of batches": lambda folder: write_compare_report(
        folder, {**COMPARISON, "strategy": "batch", "failed": {}}, CONFIG
    ),
    "study": lambda folder: write_study_report(
        folder, {**STUDY, "published": read_published("llama3_study")}, CONFIG
    ),
    "study without quotations": lambda folder: write_study_report(
        folder, {**STUDY, "published": None, "failed": {}}, CONFIG
    ),
}  # fmt: skip


class _Reader(HTMLParser):
    """Collects what is visible of a page: texts, and what stands for a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.style = tag == "style"
        self.facts += [" ".join((value or "").split()) for name, value in attrs if name == "alt"]

    def handle_endtag(self, tag: str) -> None:
        self.style = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self.style:
            self.facts.append(" ".join(data.split()))


def facts_of(page: str) -> list[str]:
    """Every visible text and number of an HTML page, sorted, white space folded."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return sorted(reader.facts)


def recorded() -> dict[str, list[str]]:
    """The facts that each page must show."""
    found: dict[str, list[str]] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found
