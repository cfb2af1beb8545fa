"""Tables of docs/results.md, from what `elder compare --json` wrote.

    python -m bench.results A.json                      one table: a row a method, a column a figure
    python -m bench.results A.json B.json               the mean over seeds, and how far they lie apart
    python -m bench.results A.json --into docs/results.md --table geography-30
                                                        puts it between the marks of that table in the page

Results of one seed are one table: a later file replaces the rows of an earlier one that it has too. So a method can be
run again alone. Files of other edits or other options of a method are refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

COLUMNS: Mapping[str, str] = {
    "reliability.generate": "reliability",
    "reliability.forced": "reliability, forced",
    "generalization.generate": "generalization",
    "generalization.forced": "generalization, forced",
    "locality.generate": "locality",
    "locality.same_subject.generate": "same subject",
    "locality.mention.generate": "mention",
    "portability.generate": "portability",
    "portability.forced": "portability, forced",
    "counterfact.ES": "ES",
    "counterfact.PS": "PS",
    "counterfact.NS": "NS",
    "perplexity_ratio": "perplexity ratio",
    "seconds": "s an edit",
}
"""Figure -> heading, in the order of the page. Abilities follow, one column a task."""

ABILITY, BEFORE = "ability.", "ability_base."
UNEDITED = "unedited"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--table")
    given = parser.parse_args(arguments)
    if (given.into is None) != (given.table is None):
        parser.error("--into and --table go together")
    try:
        text = page(merged([json.loads(path.read_text(encoding="utf-8")) for path in given.results]))
        if given.into is None:
            print(text)
        else:
            old = given.into.read_text(encoding="utf-8")
            given.into.write_text(between_marks(old, given.table, text), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"error: {error}")


def merged(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One result a seed, in the order of the seeds; rows of later ones replace those of earlier ones.

    Raises:
        ValueError: Two of one seed have other edits or another strategy, or two of different seeds other numbers of
            edits.
    """
    seeds: dict[int, dict[str, Any]] = {}
    for result in results:
        seed = result["seed"]
        if seed not in seeds:
            seeds[seed] = {**result, "methods": dict(result["methods"]), "failed": dict(result["failed"])}
            continue
        kept = seeds[seed]
        if (kept["dataset"], kept["strategy"]) != (result["dataset"], result["strategy"]):
            raise ValueError(f"seed {seed}: {result['compare_id']} has other edits than {kept['compare_id']}")
        for name, one in result["methods"].items():
            kept["methods"][name] = one
            kept["failed"].pop(name, None)
        kept["failed"] |= result["failed"]
    if len({count(result) for result in seeds.values()}) > 1:
        raise ValueError("the results are of different numbers of edits")
    return [seeds[seed] for seed in sorted(seeds)]


def count(result: Mapping[str, Any]) -> int:
    """Edits of a comparison: those that a method took in, where `data.known` left some out."""
    done = [sum(s["edits"] for s in one.get("stages", ()) if s["committed"]) for one in result["methods"].values()]
    return max(done, default=0)


def figures(one: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a method that a table may show."""
    final = one["final"]
    found = {name: float(final[name]) for name in COLUMNS if name in final}
    if final.get("perplexity_base"):
        found["perplexity_ratio"] = final["perplexity"] / final["perplexity_base"]
    if speed := (one.get("timing") or {}).get("edits_per_s"):
        found["seconds"] = 1 / speed
    return found | {name: float(value) for name, value in final.items() if is_task(name)}


def is_task(name: str) -> bool:
    """Whether a figure is the score of a task; its intervals and what was said have longer names."""
    return name.startswith(ABILITY) and name.count(".") == 1


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The table and a line that says what it is of."""
    names = list(dict.fromkeys(name for result in results for name in result["methods"]))
    rows = {name: [figures(r["methods"][name]) for r in results if done(r, name)] for name in names}
    present = {figure for row in rows.values() for one in row for figure in one}
    shown = [name for name in COLUMNS if name in present] + sorted(name for name in present if is_task(name))
    heads = [COLUMNS.get(name, name.removeprefix(ABILITY)) for name in shown]
    lines = [["method", *heads]]
    before = base_row(results)
    if before:
        lines.append([UNEDITED, *(cell([before[name]] if name in before else []) for name in shown)])
    for name, row in rows.items():
        lines.append([name, *(cell([one[figure] for one in row if figure in one]) for figure in shown)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
    return "\n\n".join([text, said_of(results), *failures(results)])


def base_row(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the unedited model reaches in the tasks; nothing where none was asked for."""
    for result in results:
        for one in result["methods"].values():
            found = {n: v for n, v in one["final"].items() if n.startswith(BEFORE) and n.count(".") == 1}
            if found:
                return {ABILITY + name.removeprefix(BEFORE): float(value) for name, value in found.items()}
    return {}


def done(result: Mapping[str, Any], name: str) -> bool:
    """Whether a method came to its end."""
    return name in result["methods"] and name not in result["failed"]


def cell(values: Sequence[float]) -> str:
    """The mean; with several seeds also the largest distance from it."""
    if not values:
        return "–"
    mean = fmean(values)
    text = f"{mean:.3g}" if mean >= 10 else f"{mean:.3f}"
    return text if len(values) == 1 else f"{text} ±{max(abs(value - mean) for value in values):.3f}"


def said_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Which edits, seeds and model a table is of."""
    models = {(one.get("base_model") or {}).get("digest", "")[:12] for r in results for one in r["methods"].values()}
    seeds = ", ".join(str(result["seed"]) for result in results)
    data = ", ".join(f"{result['dataset']['name']} {result['dataset']['digest'][:12]}" for result in results)
    model = ", ".join(sorted(models - {""}))
    return f"{count(results[0])} edits; seed {seeds}; stream {data}; model {model}."


def failures(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each method that did not finish."""
    return [
        f"{name} (seed {result['seed']}) did not finish: {' '.join(str(why).split())}"
        for result in results
        for name, why in result["failed"].items()
    ]


def between_marks(page: str, table: str, text: str) -> str:
    """The page with another text between the marks of a table.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = f"<!-- table {table} -->", f"<!-- end {table} -->"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(found.findall(page)) != 1:
        raise ValueError(f"the page has no marks, or more than one pair of them, of a table '{table}'")
    return found.sub(lambda _: f"{begin}\n{text}\n{end}", page)


if __name__ == "__main__":
    main()
