"""How fast the weight editors are: values found at once, solves in the dual, statistics in one pass, flat streams.

    python bench/weights.py                       all figures, some minutes
    python bench/weights.py --only values         one group (values, solves, statistics, stream)
    python bench/weights.py --quick               a tiny model, to see that everything runs; the ratios mean nothing

docs/performance.md says what each line means. Exit code 1 when a target is missed (not with --quick).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # this file's folder holds an `elder.py`, which is not the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import transformers

from bench import model, weight_figures
from bench.timing import HEAD, Figure, clock

SMALL = model.Shape(width=256, inner=688, depth=16, heads=8, vocabulary=2048)  # values and streams, or it takes hours
GROUPS = ("values", "solves", "statistics", "stream")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether all targets were met."""
    parser = argparse.ArgumentParser(description="Speed of the weight editors against plain formulations.")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few repetitions; no verdict")
    parser.add_argument("--only", choices=GROUPS, action="append", help="one group of figures (may be repeated)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    quick = args.quick
    shape, effort = (model.TINY, weight_figures.QUICK) if quick else (model.FULL, weight_figures.FULL)
    now, groups, begin = clock(args.threads), args.only or GROUPS, time.perf_counter()
    small = shape if quick else SMALL
    print(_setting(shape, small, args.threads))
    print(HEAD)
    base = model.make_base(shape)
    light = base if quick else model.make_base(SMALL)
    found: list[Figure] = []
    for group, measure in (
        ("values", lambda: weight_figures.values(light, small, effort, now)),
        ("solves", lambda: weight_figures.solves(effort, now)),
        ("statistics", lambda: weight_figures.second_moments(base, shape, effort, now)),
        ("stream", lambda: weight_figures.stream(light, small, effort, now)),
    ):
        for figure in measure() if group in groups else ():
            found.append(figure)
            print(figure.line(), flush=True)
    missed = [figure.name for figure in found if not figure.passed]
    print(
        f"targets: {'not judged (--quick)' if quick else f'{len(missed)} missed'}; {time.perf_counter() - begin:.0f} s"
    )
    if args.json:
        figures = [dataclasses.asdict(figure) | {"passed": figure.passed} for figure in found]
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(bool(missed) and not quick)


def _setting(shape: model.Shape, small: model.Shape, threads: int) -> str:
    sizes = [f"width {one.width} ({one.inner}), vocabulary {one.vocabulary}" for one in (shape, small)]
    return (
        f"Llamas of {shape.depth} blocks, float32, random weights. Statistics: {sizes[0]}. Values, streams: "
        f"{sizes[1]}.\n"
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{threads} thread(s), {platform.machine()}\n"
        f"times: {'CPU seconds' if threads == 1 else 'wall clock'}; medians; ratios are formed within a round"
    )


if __name__ == "__main__":
    sys.exit(main())
