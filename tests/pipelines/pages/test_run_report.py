"""The report of a run, from a made-up result: what it says, that it is self-contained and escaped."""

from __future__ import annotations

import copy
import json
import re

import pytest
from jinja2 import UndefinedError

from elder.pipelines.pages.page import number, render
from elder.pipelines.pages.run_report import results_lines, run_context, worst_rows, write_report

METRICS = [
    {"reliability.generate": 1.0, "reliability.forced": 0.98, "locality.generate": 0.97, "scope.edits": 1.0},
    {
        "reliability.generate": 0.91,
        "reliability.forced": 0.93,
        "generalization.generate": 0.84,
        "locality.generate": 0.96,
        "scope.edits": 1.0,
        "scope.locality": 0.02,
        "perplexity": 31.25,
    },
]
RESULT = {
    "run_id": "run-7",
    "config_digest": "c0ffee" * 10,
    "base_model": {"id": "world:small", "digest": "beef" * 16},
    "stages": [
        {"stage": 0, "edits": 50, "state_digest": "a1" * 32, "committed": True, "metrics": METRICS[0]},
        {"stage": 1, "edits": 80, "state_digest": "b2" * 32, "committed": True, "metrics": METRICS[1]},
    ],
    "final": METRICS[1],
    "retention": [[1.0], [0.875, 0.75]],
    "adapter": {"uri": "store/runs/run-7", "bytes": 3 * 2**20, "digest": "d4" * 32},
    "registered": {"name": "towns", "version": 3},
    "timing": {"load_s": 1.5, "edit_s": 20.25, "evaluate_s": 4.0, "commit_s": 0.5, "edits_per_s": 3.95},
}
ROWS = [
    {
        "edit_id": "e1",
        "prompt": "Ada | Bo <b>live</b> in",
        "target": "Paris",
        "reliability.generate": 0.0,
        "reliability.generate.text": "Rome",
    },
    {"edit_id": "e2", "prompt": "Cy lives in", "target": "Lima", "reliability.generate": 1.0},
    {"edit_id": "e3", "prompt": "Di", "target": "x", "reliability.generate": 1.0, "generalization.forced": 0.5},
]
REFERENCES = [
    {
        "source": "A. Author, A paper, table 1",
        "setting": "1000 edits",
        "rows": [{"method": "GRACE", "Rel": 96.8}, {"method": "OTHER", "Gen": 7.0}],
    }
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("written")
    files = write_report(
        tmp_path / "new" / "report",
        RESULT,
        ROWS,
        title="towns & people",
        examples=[{"prompt": "Ada lives in", "target": "Paris", "before": "Rome", "after": "Paris"}],
        references=REFERENCES,
        losses=[[2.0, 0.5], [1.5, 0.25]],
        config="name: towns\n",
    )
    return tmp_path / "new" / "report", files


def table(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    lines = markdown.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [rows[0], *rows[2:]]


def page(result, *rows, form="markdown", **parts):
    return render("run", run_context(result, rows, **parts), form)


def test_files(written):
    root, files = written
    names = {str(path.relative_to(root)) for path in files}
    assert {"report.md", "report.html", "results.jsonl", "plots/scores.png", "plots/retention.png"} <= names
    assert all(path.stat().st_size > 0 for path in files)
    for name in ("scores.png", "scope.png", "retention.png", "loss.png"):
        assert (root / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_markdown_says_who_and_how_well(written):
    text = (written[0] / "report.md").read_text()
    for fact in (
        RESULT["config_digest"],
        RESULT["base_model"]["digest"],
        RESULT["adapter"]["digest"],
        "models:/towns/3",
    ):
        assert fact in text
    final = {row[0]: row[1:3] for row in table(text, "After the last stage")[1:]}
    assert final == {
        "reliability": ["0.910", "0.930"],
        "generalization": ["0.840", "-"],
        "locality": ["0.960", "-"],
    }
    assert "perplexity | 31.250" in text
    assert "generate: greedy free generation" in text
    assert "forced: teacher forcing" in text
    assert "name: towns" in text


def test_figures_of_plain_texts_are_beside_those_of_the_chat():
    final = {
        **METRICS[1],
        "reliability.generate.plain": 0.5,
        "locality.generate.plain": 0.25,
        "reliability.forced.plain": 0.75,
    }
    text = page({**RESULT, "final": final})
    head, *rows = table(text, "After the last stage")
    assert head == ["quantity", "generate", "forced", "generate.plain", "forced.plain", "asked on"]
    assert [row[:5] for row in rows] == [
        ["reliability", "0.910", "0.930", "0.500", "0.750"],
        ["generalization", "0.840", "-", "-", "-"],
        ["locality", "0.960", "-", "0.250", "-"],
    ]
    assert "generate.plain: generate, with prompts as plain texts, without the chat template" in text
    assert "reliability.generate.plain" not in text


def test_stage_table_and_retention(written):
    text = (written[0] / "report.md").read_text()
    head, first, second = table(text, "Stages")
    assert head[:4] == ["stage", "edits applied", "committed", "reliability.generate"]
    assert first[:4] == ["0", "50", "yes", "1.000"]
    assert second[1] == "80"
    assert table(text, "Retention") == [["after stage", "0", "1"], ["0", "1.000", "-"], ["1", "0.875", "0.750"]]
    assert "retention.backward_transfer | -0.125" in text


def test_retention_names_its_metric_and_is_not_said_twice():
    final = {**METRICS[1], "retention.final": 0.5}
    assert "Value: reliability.generate." in page({**RESULT, "final": final})
    text = page({**RESULT, "final": final}, retention_of="reliability.forced")
    assert "Value: reliability.forced." in text
    assert text.count("| retention.final |") == 1


def test_published_numbers_stand_apart(written):
    text = (written[0] / "report.md").read_text()
    assert table(text, "Published numbers") == [
        ["method", "Rel", "Gen"],
        ["GRACE", "96.800", "-"],
        ["OTHER", "-", "7.000"],
    ]
    own = text.split("## Published numbers")[0]
    assert "GRACE" not in own
    assert "A. Author, A paper, table 1 · 1000 edits" in text


def test_worst_edits_and_examples(written):
    text = (written[0] / "report.md").read_text()
    worst = table(text, "Worst edits")
    assert [row[0] for row in worst[1:]] == ["e1", "e3"]
    assert worst[1][1] == "Ada \\| Bo <b>live</b> in"
    assert worst[1][3] == "Rome"
    assert table(text, "Before and after")[1] == ["Ada lives in", "Paris", "Rome", "Paris"]


def test_html_is_self_contained_and_escaped(written):
    page = (written[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<b>live</b>" not in page
    assert "&lt;b&gt;live&lt;/b&gt;" in page
    assert "<title>towns &amp; people</title>" in page


def test_results_are_json_lines(written):
    lines = (written[0] / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_numbers_that_json_lacks_become_null():
    line = results_lines([{"nll": float("inf"), "texts": [float("nan"), "ü"]}])
    assert json.loads(line) == {"nll": None, "texts": [None, "ü"]}
    assert "ü" in line


def test_a_bare_result_is_enough(tmp_path):
    bare = copy.deepcopy(RESULT)
    bare |= {"stages": [], "final": {}, "retention": [], "registered": None}
    files = write_report(tmp_path, bare)
    assert {path.name for path in files} == {"report.md", "report.html"}
    assert "registered" not in (tmp_path / "report.md").read_text()


def test_no_failures_is_said():
    text = page(RESULT, {"edit_id": "e", "reliability.forced": 1.0})
    assert "\nNone of the 1 edits failed in anything that was measured.\n" in text
    assert worst_rows([{"edit_id": "unjudged"}]) == []


def test_many_stages_print_the_last_row_only():
    matrix = [[0.5] * (i + 1) for i in range(30)]
    head, *rows = table(page({**RESULT, "retention": matrix}), "Retention")
    assert head == ["edits of stage", "reliability.generate"]
    assert rows == [[str(stage), "0.500"] for stage in range(30)]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (write_report(tmp_path / name, RESULT, ROWS) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_awkward_texts():
    parts = {"title": "A\nB", "config": "```x```\n\n\ny\n", "retention_of": "<p>"}
    text = page(RESULT, **parts)
    assert text.startswith("# A B\n\n| ")
    assert text.endswith("````yaml\n```x```\n\n\ny\n````\n")
    assert "![Retention matrix of <p>](plots/retention.png)" in text
    assert "\n| ---: | ---: | --- |" in text
    assert "\n\n\n" not in text.split("````")[0]
    assert 'alt="Retention matrix of &lt;p&gt;"' in page(RESULT, form="html", **parts)


def test_cells():
    shown = [number(value) for value in (None, True, 2, 0.12345, 123456.0, "s")]
    assert shown == ["-", "yes", "2", "0.123", "1.23e+05", "s"]


def test_a_template_that_asks_for_what_is_not_there_fails():
    context = run_context(RESULT)
    del context["summary"]
    with pytest.raises(UndefinedError, match="summary"):
        render("run", context, "html")
