"""`python -m tests.fuzz`: more mutated inputs than the tests try, and one again by its kind and number."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.run import KINDS, run_kind, shares


def main() -> int:
    """Try inputs of every kind, or of one; prints what is wrong with the first bad ones of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many in all (default: 20,000)")
    parser.add_argument("--kind", choices=KINDS, help="of this kind only")
    parser.add_argument("--only", type=int, help="this input of the kind only, and say what came of it")
    given = parser.parse_args()
    counts = shares(given.inputs) if given.kind is None else {given.kind: given.inputs}
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="elder-fuzz-") as folder:
        os.environ["ELDER_HOME"] = str(Path(folder) / "home")
        for kind, count in counts.items():
            begun = time.process_time()
            numbers = range(count) if given.only is None else (given.only,)
            found = run_kind(kind, numbers, Path(folder) / kind)
            for number, wrong in list(found.wrong.items())[:20]:
                print(f"{kind} {number}: {wrong}\n")
            if given.only is not None:
                print(found)
            bad[kind] = len(found.wrong)
            print(
                f"{kind}: {len(numbers)} inputs, {found.refused} refused, {bad[kind]} wrong, "
                f"{time.process_time() - begun:.1f} s",
                flush=True,
            )
    return min(bad.total(), 1)


if __name__ == "__main__":
    sys.exit(main())
