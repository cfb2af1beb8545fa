"""Compute the golden numbers anew and say which ones changed: `python -m tests.golden.make`.

A change of numbers is a decision: whoever commits the new file says why in CHANGELOG.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from tests.golden.record import FILE, differences, exact, machine, read, rounded, write
from tests.golden.streams import cases, run


def main() -> None:
    """Run all streams in both formats, compare them with the file, and replace it."""
    before = read() if FILE.exists() else {"machine": {}, "float64": {}, "float32": {}}
    with tempfile.TemporaryDirectory() as directory:
        double = {case: rounded(run(case, torch.float64, Path(directory))) for case in cases()}
        single = {case: exact(run(case, torch.float32, Path(directory))) for case in cases()}
    same_machine = before["machine"] == machine()
    for case in cases():
        if case not in before["float64"]:
            print(f"{case}: new")
            continue
        wrong = differences(double[case], before["float64"][case])
        print(f"{case}: {'unchanged' if not wrong else f'{len(wrong)} numbers changed, the first is {wrong[0]}'}")
        if same_machine and single[case] != before["float32"].get(case):
            print(f"{case}: its bits in float32 changed")
    write(double, single)
    print(
        f"wrote {FILE.name}" + ("" if same_machine or not before["machine"] else "; its float32 is this machine's now")
    )


if __name__ == "__main__":
    main()
