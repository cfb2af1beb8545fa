"""The pages that people read: prose fits 100 columns, and the files of the house that they name are there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.architecture.sources import ROOT

WIDEST = 100
FOLDERS = ("elder", "pipelines", "infra", "jobs", "docs", "configs", "tests", "bench", "examples")
GENERATED = {"docs/config.md"}
DIARY = "docs/log.md"  # history keeps its words, its lines and the paths of its day
MADE_BY_USERS = {"infra/docker/.env"}
PAGES = ["CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
PAGES = [*PAGES, "docs/studies/README.md"]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are neither code (fenced or indented), nor table, heading or HTML."""
    fenced = code = listed = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip():
            item = re.match(r"([-*+]|\d+[.)]) ", line) is not None
            listed = item or (listed and line.startswith(" "))
            code = line.startswith("    ") and not listed and (code or not before)
            if not code and not line.startswith(("|", "#", "<")):
                yield number, line
        before = line.strip()


def paths(text: str) -> Iterator[tuple[int, str]]:
    """Files and folders of the house that stand between backticks or in a block: `pipelines/run/driver.py`."""
    name = re.compile(rf"(?<![\w./$-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w(?![\w*{{<$])")
    for number, line in enumerate(text.splitlines(), 1):
        for found in name.findall(line):
            if not re.search(r"\b(?:NAME|ROOM)\b", found) and found not in MADE_BY_USERS:
                yield number, found


@pytest.mark.parametrize("page", [page for page in ("README.md", *PAGES) if page not in {*GENERATED, DIARY}])
def test_prose_fits_the_page(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [f"{page}:{number}: {len(line)} columns" for number, line in prose(text) if len(line) > WIDEST] == []


@pytest.mark.parametrize("page", ["README.md", *(page for page in PAGES if page != DIARY)])
def test_files_of_the_house_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [f"{page}:{number}: {path}" for number, path in paths(text) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ["README.md", *(page for page in PAGES if page != DIARY)])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text) if "://" not in link]
    assert [f"{page}: {link}" for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_rules_can_fail() -> None:
    page = "\n".join(["w " * 60, "", "| " + "w " * 60, "", "    " + "w " * 60, "", "- a", "  " + "w " * 60])
    assert [number for number, line in prose(page) if len(line) > WIDEST] == [1, 8]
    assert list(paths("see `elder/base.py`, `elder/NAME.py` and `jobs/no.py`; not runs/elder/x.py")) == [
        (1, "elder/base.py"),
        (1, "jobs/no.py"),
    ]
