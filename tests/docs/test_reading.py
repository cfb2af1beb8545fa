"""The files that docs/reading.md names exist, and there are as many, and as short, as it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[`?([^\]`]+)`?\]\(([^)]+)\)")
ITEM = re.compile(r"^\d+\. \[`([^`]+)`\]", re.MULTILINE)
WORDS = {"Fifteen": 15}


def test_every_file_that_it_names_exists_under_that_name() -> None:
    found = LINK.findall(PAGE)
    assert found
    missing = [target for _, target in found if not (ROOT / "docs" / target).exists()]
    assert missing == []
    assert [name for name, target in found if "/" in name and target != f"../{name}"] == []


def test_the_evening_is_as_long_as_it_says() -> None:
    said = re.search(r"(\w+) files, fewer than ([\d,]+) lines", PAGE)
    assert said
    files = ITEM.findall(PAGE)
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files)
    assert len(files) == len(set(files)) == WORDS[said[1]]
    assert lines < int(said[2].replace(",", ""))


def test_lines_wrap_at_100() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 100 and not line.startswith("|")] == []
