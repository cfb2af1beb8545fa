"""Family x method: edited, or refused and why; and the page `docs/models.md` that tells it.

`python -m tests.elder.families.table` writes the page's table anew.
"""

from __future__ import annotations

from pathlib import Path

from elder.registry import METHODS
from tests.elder.families.zoo import FAMILIES
from tests.methods import having

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table: tests/elder/families/table.py -->\n", "<!-- end of the table -->\n"
EXPERTS = "mixture-of-experts"
NO_ROWS = r"hands its MLP tokens of shape .* instead of"
NO_CACHE = "keeps no cache of keys and values"
SHARED = "use the keys and values of others"
ONE_BLOCK = r"puts a norm between its MLPs and the residual stream.*give it one: layers: \[2\]"
SEVERAL = ("memit", "emmet", "alphaedit")  # share a change out to several blocks
# Those of the room `gradient` run whole passes only, and take one step for each edit.
GRADIENTS = tuple(name for name, method in METHODS.items() if method.editor.startswith("elder.editors.gradient."))
TUNING = having("step_edits")  # whole passes too; nothing of theirs needs rows
IN_BLOCKS = having("layers")  # the others look at the prompt alone and run the model as it is

REFUSED: dict[str, dict[str, str]] = {
    **{
        name: dict.fromkeys(IN_BLOCKS, EXPERTS)
        for name, family in FAMILIES.items()
        if family.about.startswith("experts")
    },
    "OPT": {name: NO_ROWS for name in IN_BLOCKS if name not in TUNING},
    "Gemma 4, shared": dict.fromkeys(IN_BLOCKS, SHARED),
    "Mamba": {name: NO_CACHE for name in METHODS if name not in (*GRADIENTS, *TUNING)},
}
"""Family -> method -> what the error says."""

MARKS = {EXPERTS: "no (1)", NO_ROWS: "no (2)", SHARED: "no (3)", NO_CACHE: "no (4)"}


def cell(family: str, method: str) -> str:
    """What the page says of a family and a method."""
    refusal = REFUSED.get(family, {}).get(method)
    if refusal:
        return MARKS[refusal]
    return "one block (5)" if FAMILIES[family].bends and method in SEVERAL else "yes"


def markdown() -> str:
    """The page's table; methods that agree for every family share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for method in METHODS:
        columns.setdefault(tuple(cell(family, method) for family in FAMILIES), []).append(method)
    lines = ["| family | about | " + " | ".join(", ".join(names) for names in columns.values()) + " |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for row, (name, family) in enumerate(FAMILIES.items()):
        lines.append(f"| {name} | {family.about} | " + " | ".join(cells[row] for cells in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the table where the page has its marks."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(head + BEGIN + "\n" + markdown() + "\n" + END + tail)


if __name__ == "__main__":
    main()
