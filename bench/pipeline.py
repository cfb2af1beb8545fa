"""What a run costs beside editing and measuring: Ray, MLflow, store, commits, driver.

    python bench/pipeline.py                the full run: 1,000 edits in 20 stages on 2 workers, then how it scales
    python bench/pipeline.py --only run     the full run alone
    python bench/pipeline.py --only scale   1,000 edits with one training step each in 5, 10, 20 and 40 stages
    python bench/pipeline.py --quick        a tiny model and a few edits, to see that everything runs; no verdict

Every run is a process of its own, timed from its start to its end. The world's model must be in the cache
(ELDER_HOME); it is made if it is not, outside the time. Exit code 1 when the target is missed (not with --quick).
docs/performance.md says what each line means.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # this file's folder holds an `elder.py`, which is not the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.pipeline_parts import HEAD, Parts, Setting, flatness_lines, measure_here, part_lines, stage_lines

TARGET = 0.15  # share of the wall clock outside editing and measuring
FULL = Setting("full", "world:small", edits=1000, stage_size=50, workers=2)
LIGHT = {"steps": 1, "extra_steps": 0}  # as much to commit, little to train
SCALES = (5, 10, 20, 40)
QUICK = Setting("quick", "world:tiny", edits=16, stage_size=4, workers=0, options={"steps": 2, "extra_steps": 0})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether the target was met."""
    parser = argparse.ArgumentParser(description="What a run costs beside editing and measuring.")
    parser.add_argument("--quick", action="store_true", help="a tiny model, this process; no verdict")
    parser.add_argument("--only", choices=("run", "scale"), help="one group of figures")
    parser.add_argument("--stages", type=int, action="append", help="stages of the scaling runs (may be repeated)")
    parser.add_argument("--edits", type=int, help="another length of the stream than 1,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a run's own process is called with
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure_here(Setting(**json.loads(args.measure)))), flush=True)
        return 0
    print(HEAD, flush=True)
    found = []
    for setting in _settings(args):
        found.append(_measure(setting))
        _print(found[-1])
    if args.json:
        args.json.write_text(json.dumps([parts.record for parts in found], indent=1), encoding="utf-8")
    return 0 if args.quick else _verdict(found)


def _settings(args: argparse.Namespace) -> list[Setting]:
    if args.quick:
        return [QUICK]
    full = FULL.of(args.edits or FULL.edits, FULL.stages)
    settings = [full] if args.only != "scale" else []
    if args.only != "run":
        light = FULL.of(full.edits, full.stages, options=LIGHT, sample=5)
        settings += [light.of(full.edits, stages, name=f"{stages} stages") for stages in args.stages or SCALES]
    return settings


def _measure(setting: Setting) -> Parts:
    """One run in a process of its own."""
    setting.prepare()
    with tempfile.TemporaryDirectory(prefix="elder-bench-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", setting.text()]
        begin = time.time()
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
        return Parts(setting, json.loads(done.stdout.splitlines()[-1]), begin, time.time())


def _print(parts: Parts) -> None:
    lines = [*part_lines(parts), *flatness_lines(parts)]
    if parts.setting.name in ("full", "quick"):
        lines += stage_lines(parts)
    print("\n".join(lines), flush=True)


def _verdict(found: Sequence[Parts]) -> int:
    full = [parts for parts in found if parts.setting.name == "full"]
    missed = [parts for parts in full if parts.outside_share > TARGET]
    for parts in full:
        word = "missed" if parts in missed else "met"
        print(f"outside editing and measuring: {parts.outside_share:.1%} of the wall clock; {TARGET:.0%} {word}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
