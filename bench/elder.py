"""How fast ELDER is here: prints ratios against a plain formulation of the reference algorithm and against the base.

    python bench/elder.py            all figures, some minutes
    python bench/elder.py --quick    a tiny model, to see that everything runs; the ratios mean nothing

docs/performance.md says what each line means. Exit code 1 when a target is missed (not with --quick).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # this file's folder holds an `elder.py`, which is not the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import transformers

from bench import figures, model
from bench.timing import HEAD, Figure, clock
from bench.together import together

GROUPS = ("edit", "generate", "together", "lookup")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether all targets were met."""
    parser = argparse.ArgumentParser(description="Speed of ELDER against its plain formulation and the base model.")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few repetitions; no verdict")
    parser.add_argument("--only", choices=GROUPS, action="append", help="one group of figures (may be repeated)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # both sides of a ratio on the same core and its caches
    shape, effort = (model.TINY, figures.QUICK) if args.quick else (model.FULL, figures.FULL)
    now, groups, begin = clock(args.threads), args.only or GROUPS, time.perf_counter()
    print(_setting(shape, effort, args.threads))
    print(HEAD)
    base = model.make_base(shape)
    found: list[Figure] = []
    for group, measure in (
        ("edit", lambda: figures.editing(base, shape, effort, now)),
        ("generate", lambda: figures.generation(base, shape, effort, now)),
        ("together", lambda: together(base, shape, effort, now)),
        ("lookup", lambda: figures.lookup(effort, now)),
    ):
        for figure in measure() if group in groups else ():
            found.append(figure)
            print(figure.line(), flush=True)
    missed = [figure.name for figure in found if not figure.passed]
    verdict = "not judged (--quick)" if args.quick else f"{len(missed)} missed"
    print(f"targets: {verdict}; {time.perf_counter() - begin:.0f} s")
    return int(bool(missed) and not args.quick)


def _setting(shape: model.Shape, effort: figures.Effort, threads: int) -> str:
    return (
        f"Llama of width {shape.width}, {shape.depth} blocks, vocabulary {shape.vocabulary}, float32, random weights; "
        f"prompts of {shape.prompt[0]} to {shape.prompt[1]} tokens; {effort.steps} steps a batch\n"
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{threads} thread(s), {platform.machine()}\n"
        f"times: {'CPU seconds' if threads == 1 else 'wall clock'}; medians; ratios are formed within a round"
    )


if __name__ == "__main__":
    sys.exit(main())
