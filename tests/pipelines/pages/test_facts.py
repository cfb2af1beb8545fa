"""Every page shows the facts that are recorded in facts.json, as HTML and as Markdown, and every picture once.

`python -m tests.pipelines.pages.test_facts` records them anew, after a change of what pages are meant to show.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from tests.pipelines.pages.samples import FACTS, WRITERS, facts_of, recorded


@pytest.mark.parametrize("kind", WRITERS)
def test_a_page_shows_what_is_recorded_and_every_picture(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    facts = facts_of(page)
    assert facts == recorded()[kind]
    markdown = " ".join((tmp_path / "report.md").read_text(encoding="utf-8").replace("\\|", "|").split())
    assert [fact for fact in facts if fact not in markdown] == []
    pictures = sorted(path.name for path in tmp_path.glob("plots/*"))
    assert sorted(re.findall(r"!\[.*?\]\(plots/(\S+?)\)", markdown)) == pictures
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert page.endswith("</body></html>\n")
    assert "<b>" not in page


def record() -> None:
    """Write the facts of today's pages into facts.json."""
    found = {}
    for kind, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            found[kind] = facts_of((Path(folder) / "report.html").read_text(encoding="utf-8"))
    FACTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
