"""The same ten facts under three methods, and one table: `python examples/compare_methods.py`.

`elder compare compare_world` does this in stages, with plots, an HTML report and a record of every answer.
"""

from __future__ import annotations

import os
import time

import elder

LOCATE = {"fact_token": "last", "layers": (3,), "lr": 1.0, "steps": 60, "contexts": 0, "clamp": 4.0}
METHODS = {
    "elder-plus": {"terminator": "sentence"},
    "memit": {**LOCATE, "ridge": 10.0},
    "rome": LOCATE,
}
QUANTITIES = ("reliability", "generalization", "locality")


def main() -> None:
    """Edit a fresh model under each method and measure it by what it says in free generation."""
    base = elder.load_base("world:tiny", device="cpu", cache_dir=os.environ.get("ELDER_HOME"))
    edits = elder.load_edits("world:tiny", limit=10)
    print(f"{len(edits)} facts of {base.source}; shares of answers that are right\n")
    print(f"{'method':<12}{''.join(f'{name:>16}' for name in QUANTITIES)}{'seconds':>10}")
    for method, options in METHODS.items():
        begin = time.perf_counter()
        editor = elder.make_editor(method, base, **options)
        editor.edit(edits)
        seconds = time.perf_counter() - begin
        figures = elder.evaluate(editor, edits, protocols=("generate",)).metrics
        shares = "".join(f"{figures[f'{name}.generate']:>16.3f}" for name in QUANTITIES)
        print(f"{method:<12}{shares}{seconds:>10.1f}")
    print("\nreliability: the prompts of the facts; generalization: other wordings of them; locality: other prompts,")
    print("which must be answered as before.")


if __name__ == "__main__":
    main()
