"""A study's page and its plots, of plain values: looked at through tables and axes, not through pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from elder.pipelines.pages.page import Table, render
from elder.pipelines.suite import study_plots
from elder.pipelines.suite.study_plots import Line, against_axis
from elder.pipelines.suite.study_report import read_published, study_context, write_study_report

SCORES = {"counterfact.ES": 1.0, "counterfact.PS": 0.5, "counterfact.NS": 0.25, "counterfact.S": 0.4}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure of a test, drawn and not rendered."""
    drawn: list[Figure] = []

    def keep(draw: Any, size: tuple[float, float]) -> bytes:
        figure: Figure = Figure(figsize=size)
        draw(figure)
        drawn.append(figure)
        return b"\x89PNG"

    monkeypatch.setattr(study_plots, "to_png_panels", keep)
    return drawn


def run(method: str, strategy: str, value: int, **more: Any) -> dict[str, Any]:
    """One entry of a study's result; its scores are those of the moment that counts, other figures are 0.9."""
    moment = "final" if strategy.startswith("sequential") else "right_after"
    found: dict[str, Any] = {
        "run_id": "x", "part": "p", "axis": "batch_size", "method": method, "editor": method, "strategy": strategy,
        "value": value, "edits": 100, "status": "finished", "error": None, "seconds_per_edit": 1.5,
        "right_after": {"counterfact.S": 0.9}, "final": {"counterfact.S": 0.9},
    }  # fmt: skip
    return {**found, moment: SCORES, **more}


def result(*runs: dict[str, Any], published: bool = True, **failed: str) -> dict[str, Any]:
    return {
        "study_id": "s", "base_model": {"id": "/a/place/model-x", "digest": "0123456789abcdef"}, "seed": 7,
        "dataset": {"name": "counterfact", "digest": "fedcba9876543210", "count": 100},
        "runs": {f"r{i}": one for i, one in enumerate(runs)}, "failed": failed,
        "published": read_published("llama3_study") if published else None,
    }  # fmt: skip


def tables(context: dict[str, Any]) -> list[Table]:
    """The tables of all parts, then the quoted one."""
    return [table for part in context["parts"] for table in part["tables"]] + [context["quoted"]]


def words(context: dict[str, Any]) -> str:
    return " ".join(render("study", context, "markdown").split())


def drawn(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    lines = figure.axes[panel].lines
    return {str(one.get_label()): list(zip(*map(list, one.get_data()), strict=True)) for one in lines}


def test_a_part_is_a_table_of_scores_and_a_table_of_shares(figures: list[Figure]) -> None:
    shares = {**SCORES, "reliability.generate": 1.0, "locality_answer.generate": 0.5, "scope.edits": 1.0}
    page = study_context(result(run("memit", "batch", 16, right_after=shares), run("memit", "batch", 64)))
    (facts, scored), (others, shared), (quoted, published) = tables(page)
    assert facts == ["method", "strategy", "batch size", "edits", "ES", "PS", "NS", "S", "s/edit"]
    assert scored[0] == ("memit", "batch", 16, 100, 1.0, 0.5, 0.25, 0.4, 1.5)
    assert others[4:] == ["reliability, generate", "s/edit"]
    assert shared[1][4] is None
    assert quoted[3:5] == ["ES, %", "PS, %"]
    assert published[0][:7] == ("memit", "single", 1, "100", "98.05", "85.61", "94.1")
    for text in ("model-x (digest 0123456789ab)", "seed 7", "error of up to 0.050", "Quoted, not measured here"):
        assert text in words(page)
    assert "/a/place" not in words(page)


def test_the_best_block_is_named_the_lowest_of_equals(figures: list[Figure]) -> None:
    low = {**SCORES, "counterfact.S": 0.3}
    runs = [run("memit", "single", 0, right_after=low), run("memit", "single", 1), run("memit", "single", 2)]
    page = study_context(result(*({**one, "axis": "layers"} for one in runs)))
    assert "Best block by S: memit, single: 1 (0.400)." in words(page)
    assert tables(page)[0][0][2] == "block"
    ours = drawn(figures[0], 3)
    assert ours == {"memit, single": [(0, 0.3), (1, 0.4), (2, 0.4)]}, "published blocks are of another model"
    assert figures[0].axes[0].get_xscale() == "linear"


def test_quoted_points_are_told_from_ours_and_only_those_that_belong(figures: list[Figure]) -> None:
    study_context(result(run("memit", "batch", 1), run("memit", "batch", 16)))
    panel = drawn(figures[0], 0)
    assert set(panel) == {"memit, batch", "quoted [F]: memit, batch"}, "emmet is quoted where emmet is measured"
    assert panel["memit, batch"] == [(1, 1.0), (16, 1.0)]
    assert panel["quoted [F]: memit, batch"][0] == (16, pytest.approx(0.977))
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in figures[0].axes[3].get_xticklabels()] == [
        "1",
        "16",
        "64",
        "256",
        "1024",
        "4096",
    ]
    measured, quoted = figures[0].legends
    assert [text.get_text() for text in measured.get_texts()] == ["memit, batch"]
    assert [text.get_text() for text in quoted.get_texts()] == ["quoted [F]: memit, batch"]
    assert quoted.get_title().get_text().startswith("not measured here")
    colours = {str(one.get_label()): str(one.get_color()) for one in axes.lines}
    assert colours["quoted [F]: memit, batch"] in study_plots.QUOTED_COLOURS
    assert colours["memit, batch"] not in study_plots.QUOTED_COLOURS


def test_a_method_of_another_name_meets_the_figures_of_its_editor(figures: list[Figure]) -> None:
    runs = [run("mine", "batch", 1, editor="memit"), run("mine", "batch", 16, editor="memit")]
    study_context(result(*runs))
    assert set(drawn(figures[0], 3)) == {"mine, batch", "quoted [F]: memit, batch"}


def test_streams_show_their_end_and_batches_the_moment_right_after(figures: list[Figure]) -> None:
    study_context(result(run("memit", "sequential", 1), run("memit", "sequential-batched", 16), published=False))
    assert drawn(figures[0], 3) == {"memit, sequential": [(1, 0.4)], "memit, sequential-batched": [(16, 0.4)]}
    assert len(figures[0].legends) == 1


def test_one_value_alone_makes_bars(figures: list[Figure]) -> None:
    page = study_context(result(run("rome", "single", 1), run("rome", "sequential", 1)))
    axes = figures[0].axes[0]
    assert [container.get_label() for container in axes.containers] == [
        "rome, single", "rome, sequential", "quoted [P]: rome, single",
    ]  # fmt: skip
    assert [bar.get_height() for bar in axes.containers[0]] == [1.0, 0.5, 0.25, 0.4]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ES", "PS", "NS", "S"]
    assert list(page["pictures"]) == ["p_counterfact.png"]


def test_what_did_not_finish_is_marked_and_not_drawn(figures: list[Figure]) -> None:
    bad = run("memit", "batch", 64, status="failed")
    page = study_context(result(run("memit", "batch", 1), run("memit", "batch", 16), bad, r2="no memory"))
    assert "| run | why | | --- | --- | | r2 | no memory |" in words(page)
    assert [row[0] for row in tables(page)[0][1]] == ["memit", "memit", "memit (failed)"]
    assert drawn(figures[0], 0)["memit, batch"] == [(1, 1.0), (16, 1.0)]
    assert study_context(result({**bad, "right_after": {}}, r0="no memory"))["pictures"] == {}


def test_colours_are_those_of_the_method_in_every_part(figures: list[Figure]) -> None:
    first = [run("memit", "batch", 1), run("memit", "batch", 4), run("emmet", "batch", 1), run("emmet", "batch", 4)]
    second = [{**run("emmet", "sequential-batched", value), "part": "q"} for value in (1, 4)]
    study_context(result(*first, *second, published=False))
    colours = [
        {str(one.get_label()).split(",")[0]: one.get_color() for one in figure.axes[0].lines} for figure in figures
    ]
    assert colours[1] == {"emmet": colours[0]["emmet"]}
    assert colours[0]["memit"] != colours[0]["emmet"]


def test_a_picture_is_a_picture() -> None:
    lines = [Line("quoted [P]: x", [(16, 0.9)], quoted=True), Line("ours", [(1, 0.5), (4, 0.4)])]
    assert against_axis({"counterfact.S": lines}, "batch_size", "them").startswith(b"\x89PNG")


def test_a_page_names_every_file_that_it_wrote(tmp_path: Path) -> None:
    """What keeps a report in the store goes by these names."""
    names = write_study_report(tmp_path, result(run("memit", "batch", 1), run("memit", "batch", 16)), "")
    written = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == sorted(written) == ["plots/p_counterfact.png", "report.html", "report.md", "study.csv"]
