"""How long `elder validate` takes for a long stream, and how much memory.

    python bench/validate.py                     500,000 records in the layout of WikiBigEdit
    python bench/validate.py --records 5000      what of the memory does not depend on the stream
    python bench/validate.py KEY=VALUE ...       other keys of the config, such as a base model

docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the records, run the command, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edits.jsonl"
        with path.open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(record) + "\n" for record in records(given.records))
        size = path.stat().st_size / 2**20
        command = [sys.executable, "-m", "elder.jobs.main", "validate", "demo", "data.source=wikibigedit"]
        command += [f"data.path={path}", "data.edits=null", *given.overrides]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(done.returncode)
    print(*(line for line in done.stdout.splitlines() if line.startswith("#")), sep="\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{given.records:,} records ({size:.0f} MiB): {cpu:.1f} CPU seconds ({seconds:.1f} s on the clock),", end=" ")
    print(f"{given.records / cpu:,.0f} records a CPU second")
    print(f"peak resident memory {used.ru_maxrss / 1024:.0f} MiB")


def records(count: int) -> Iterator[dict[str, Any]]:
    """Invented facts with a rephrase, an unrelated question and, one in five, a question of two hops."""
    for number in range(count):
        name = f"Person {number} of Aldmoor"
        record = {
            "tag": "new", "subject": name, "update": f"In which town does {name} live today?",
            "ans": f"Town {number % 997}", "rephrase": f"What is the town that {name} calls home now?",
            "loc": f"Which river flows through Town {number % 499}?", "loc_ans": f"River {number % 499}",
        }  # fmt: skip
        if number % 5 == 0:
            record |= {"mhop": f"Who is the mayor of the town in which {name} lives?", "mhop_ans": f"Mayor {number}"}
        yield record


if __name__ == "__main__":
    main()
