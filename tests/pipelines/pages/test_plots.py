"""Plots draw what they were given: looked at through the axes, not through pixels."""

from __future__ import annotations

import subprocess
import sys

import pytest

from elder.pipelines.pages import axes as manner
from elder.pipelines.pages import plots

STAGES = [
    {"edits": 50, "metrics": {"reliability.generate": 1.0, "reliability.forced": 0.9, "scope.locality": 0.1}},
    {"edits": 50, "metrics": {"reliability.generate": 0.8, "scope.locality": 0.3}},
    {"edits": 20, "metrics": {}},
]


@pytest.fixture
def axes(monkeypatch):
    """The axes of every plot drawn in a test."""
    drawn = []
    original = manner.to_png_panels

    def spy(draw, size):
        def keep(figure):
            draw(figure)
            drawn.append(figure.axes[0])

        return original(keep, size)

    monkeypatch.setattr(manner, "to_png_panels", spy)
    return drawn


def lines(one):
    return {line.get_label(): [list(map(float, values)) for values in line.get_data()] for line in one.lines}


def test_scores_over_edits(axes):
    assert plots.scores_over_edits(STAGES).startswith(b"\x89PNG")
    assert lines(axes[0]) == {
        "reliability.generate": [[50.0, 100.0], [1.0, 0.8]],
        "reliability.forced": [[50.0], [0.9]],
    }
    assert axes[0].get_xlabel() == "edits applied"
    styles = {line.get_label(): line.get_linestyle() for line in axes[0].lines}
    assert styles["reliability.generate"] != styles["reliability.forced"]


def test_scope_over_edits(axes):
    assert plots.scope_over_edits(STAGES).startswith(b"\x89PNG")
    assert lines(axes[0]) == {"scope.locality": [[50.0, 100.0], [0.1, 0.3]]}


def test_retention_map(axes):
    assert plots.retention_map([[1.0, 7.0], [0.25, 0.5]], "reliability.forced").startswith(b"\x89PNG")
    grid = axes[0].images[0].get_array()
    assert grid.mask.tolist() == [[False, True], [False, False]]  # above the diagonal there is nothing
    assert grid[1].tolist() == [0.25, 0.5]
    assert {text.get_text() for text in axes[0].texts} == {"1.00", "0.25", "0.50"}
    assert "reliability.forced" in axes[0].get_title(loc="left")


def test_large_retention_maps_have_no_numbers_in_them(axes):
    plots.retention_map([[0.5] * (i + 1) for i in range(40)])
    assert len(axes[0].texts) == 0


def test_training_loss(axes):
    assert plots.training_loss([[2.0, 1.0, 0.5], [], [3.0, 0.25]]).startswith(b"\x89PNG")
    assert lines(axes[0]) == {"first step": [[1.0, 2.0], [2.0, 3.0]], "last step": [[1.0, 2.0], [0.5, 0.25]]}
    assert axes[0].get_yscale() == "log"
    plots.training_loss([[1.0, 0.0]])
    assert axes[1].get_yscale() == "linear"


def test_nothing_to_draw_is_no_plot():
    assert plots.scores_over_edits([]) is None
    assert plots.scope_over_edits([{"edits": 1, "metrics": {"reliability.forced": 1.0}}]) is None
    assert plots.retention_map([]) is None
    assert plots.training_loss([[]]) is None


@pytest.mark.parametrize(
    ("numbers", "applied"),
    [([50, 50, 20], [50, 100, 120]), ([50, 100, 120], [50, 100, 120]), ([5], [5]), ([], []), ([4, 3], [4, 7])],
)
def test_edits_applied_from_own_or_running_numbers(numbers, applied):
    assert plots.edits_applied([{"edits": n} for n in numbers]) == applied


def test_importing_reports_imports_neither_matplotlib_nor_templates():
    code = (
        "import sys, elder.pipelines.pages.plots, elder.pipelines.pages.run_report; "
        "print('matplotlib' in sys.modules, 'torch' in sys.modules, 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
