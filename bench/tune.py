"""Trials a minute: resident worker groups (`elder tune`) against one worker group a trial (`elder edit` each time).

    python bench/tune.py                         the embedded model, some minutes
    python bench/tune.py --quick                 world:tiny and few trials, to see that everything runs

Both do the same trials on one Ray cluster that is up already: the same configs, edits, store and measurements, and
they must commit the same states. Times are wall clock, the first start of the resident groups included. Exit code 1
when the target is missed (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # this file's folder holds an `elder.py`, which is not the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.timing import HEAD, Figure
from elder.infra.stores.local import LocalStore
from elder.infra.tracking.null import NullTracker
from elder.pipelines.cluster.ray_train import connection, worker_environment
from elder.pipelines.cluster.trial_resources import trial_cluster
from elder.pipelines.config.search import TuneConfig, parse_tune_config
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.inputs import read_stream
from elder.pipelines.search.driver import run_tune
from elder.pipelines.search.records import TuneState, trial_name

TARGET = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether the target was met."""
    parser = argparse.ArgumentParser(description="Trials a minute with resident groups and with a group a trial.")
    parser.add_argument("--quick", action="store_true", help="world:tiny, two trials; no verdict")
    parser.add_argument("--trials", type=int, default=8, help="trials of each way (default 8)")
    parser.add_argument("--edits", type=int, default=20, help="edits of each trial, in two stages (default 20)")
    parser.add_argument("--workers", type=int, default=2, help="workers of each trial (default 2)")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args(argv)
    world, count = ("world:tiny", 2) if args.quick else ("world:small", args.trials)
    search = make_search(world, count, args.edits, args.workers)
    home = Path(os.environ.get("ELDER_HOME") or Path.home() / ".cache" / "elder")
    edits = read_stream(search.run, home)
    print(f"{world}, {count} trials of {args.edits} edits in 2 stages, {args.workers} worker(s) each, one at a time")
    cluster = trial_cluster(search.run)
    with (
        tempfile.TemporaryDirectory() as folder,
        connection(cluster, worker_environment(cluster), lambda event: None, everywhere=True),
    ):
        resident, alone = (partial(LocalStore, f"{folder}/{name}") for name in ("resident", "alone"))
        begin = time.perf_counter()
        result = run_tune(search, resident, NullTracker, cache_dir=home, edits=lambda run: edits)
        ours = time.perf_counter() - begin
        suggestions = TuneState(resident(), search.tune_id).suggestions()
        begin = time.perf_counter()
        for number in range(count):
            config = search.trial_config(suggestions[number].parameters, f"bench-{trial_name(number)}")
            run_edit(config, alone, NullTracker(), cache_dir=home, edits=edits)
        other = time.perf_counter() - begin
        check_equal(resident(), alone(), count)
    busy = result["timing"]["runs_s"]
    target = None if args.quick else TARGET
    ratio = other / ours
    print(HEAD)
    figure = Figure("trials a minute: resident groups / a group a trial", 60 * count / ours, 60 * count / other,
                    "1/min", ratio, target, at_least=True)  # fmt: skip
    print(figure.line())
    print(f"seconds: resident {ours:.1f} in all, of which {busy:.1f} in stages; a group a trial {other:.1f} in all")
    if args.json:
        seconds = {"resident_s": ours, "in_stages_s": busy, "group_a_trial_s": other, "ratio": ratio, "trials": count}
        args.json.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")
    return int(not figure.passed)


def make_search(world: str, trials: int, edits: int, workers: int) -> TuneConfig:
    """A search of small trials, all of which go to their end."""
    values = {
        "name": "bench",
        "run_id": "bench",
        "model": {"source": world},
        "data": {"source": world, "edits": edits},
        "stream": {"stage_size": edits // 2, "batch_size": edits // 2},
        "editor": {"method": "elder-plus", "terminator": "sentence", "steps": 10, "extra_steps": 0},
        "evaluation": {"protocols": ["generate"], "probes": 0},
        "cluster": {"workers": workers, "sharding": "none", "address": "local", "threads_per_worker": 1},
        "tracking": {"mlflow": None},
        "tune": {
            "space": {"editor.lr": {"loguniform": [1e-3, 1e-2]}, "editor.rank": {"choice": [2, 4, 8]}},
            "trials": trials, "scheduler": "none", "finalists": 0, "concurrent": 1,
        },
    }  # fmt: skip
    return parse_tune_config(json.dumps(values), "bench")


def check_equal(resident: LocalStore, alone: LocalStore, trials: int) -> None:
    """Both ways must have come to the same adapters, or the comparison means nothing."""
    for number in range(trials):
        name = f"bench-{trial_name(number)}"
        one, two = ([c.state_digest for c in RunState(store, name).commits()] for store in (resident, alone))
        if one != two or not one:
            raise RuntimeError(f"{name}: the two ways ended in different states: {one} and {two}")


if __name__ == "__main__":
    sys.exit(main())
