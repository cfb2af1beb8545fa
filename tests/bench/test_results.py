"""The tables of docs/results.md say what the results say, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.results import between_marks, main, merged, page


def result(seed: int = 0, **rows: dict[str, float]) -> dict[str, Any]:
    methods = {
        name: {
            "final": final,
            "stages": [{"edits": 10, "committed": True}],
            "timing": {"edits_per_s": 2.0},
            "base_model": {"digest": "ab" * 20},
        }
        for name, final in rows.items()
    }
    dataset = {"name": "geography", "digest": f"{seed}" * 40, "count": 675}
    return {
        "compare_id": f"c{seed}",
        "seed": seed,
        "strategy": "sequential",
        "dataset": dataset,
        "methods": methods,
        "failed": {},
    }


def cells(text: str, method: str) -> dict[str, str]:
    lines = text.splitlines()
    row = next(line for line in lines if line.startswith(f"| {method} |"))
    return dict(zip(lines[0].strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))


def test_a_row_has_the_figures_that_were_measured_and_dashes_for_others() -> None:
    one = {"reliability.generate": 0.9, "perplexity": 12.0, "perplexity_base": 10.0}
    text = page(merged([result(rome=one, memit={"reliability.generate": 1.0, "locality.generate": 0.5})]))
    assert cells(text, "rome") == {
        "method": "rome",
        "reliability": "0.900",
        "locality": "–",
        "perplexity ratio": "1.200",
        "s an edit": "0.500",
    }
    assert "10 edits; seed 0; stream geography 000000000000; model abababababab." in text


def test_seeds_are_averaged_and_their_distance_is_said() -> None:
    text = page(merged([result(1, rome={"locality.generate": 0.5}), result(0, rome={"locality.generate": 0.6})]))
    assert cells(text, "rome")["locality"] == "0.550 ±0.050"
    assert "seed 0, 1;" in text


def test_a_later_file_of_the_same_seed_replaces_rows_and_clears_their_failure() -> None:
    first = result(rome={"locality.generate": 0.1}, memit={"locality.generate": 0.2})
    first["failed"] = {"rome": "out of\nmemory", "memit": "no text"}
    text = page(merged([first, result(rome={"locality.generate": 0.9})]))
    assert cells(text, "rome")["locality"] == "0.900"
    assert cells(text, "memit")["locality"] == "–"
    assert "memit (seed 0) did not finish: no text" in text
    assert "rome (seed 0)" not in text


def test_other_edits_are_refused() -> None:
    other = result(rome={})
    other["dataset"] = {**other["dataset"], "digest": "f" * 40}
    with pytest.raises(ValueError, match="other edits"):
        merged([result(rome={}), other])
    fewer = copy.deepcopy(result(1, rome={}))
    fewer["methods"]["rome"]["stages"][0]["edits"] = 9
    with pytest.raises(ValueError, match="different numbers of edits"):
        merged([result(rome={}), fewer])


def test_tasks_stand_beside_the_unedited_model() -> None:
    final = {"ability.rte": 0.4, "ability_base.rte": 0.5, "ability.rte.said": 0.1, "ability_base.rte.said": 0.2}
    text = page(merged([result(rome=final)]))
    assert cells(text, "unedited")["rte"] == "0.500"
    assert cells(text, "rome") == {"method": "rome", "s an edit": "0.500", "rte": "0.400"}


def test_a_table_is_put_between_its_marks(tmp_path: Path) -> None:
    file, document = tmp_path / "r.json", tmp_path / "page.md"
    file.write_text(json.dumps(result(rome={"locality.generate": 0.9})))
    document.write_text("a\n<!-- table x -->\nold\n<!-- end x -->\nb\n<!-- table y -->\nkept\n<!-- end y -->\n")
    main([str(file), "--into", str(document), "--table", "x"])
    text = document.read_text()
    assert "old" not in text
    assert "| rome | 0.900 | 0.500 |" in text
    assert text.startswith("a\n<!-- table x -->\n| method |")
    assert text.endswith("<!-- end x -->\nb\n<!-- table y -->\nkept\n<!-- end y -->\n")
    with pytest.raises(ValueError, match="no marks"):
        between_marks(text, "z", "")
