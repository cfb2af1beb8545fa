"""Kills a run with Ray workers again and again with `kill -9`, and compares its end with that of an undisturbed run.

    python bench/kills.py DIR                 twelve kills at random moments, some minutes; works in DIR, which is new
    python bench/kills.py DIR --kills 3 --seed 1 --sharding zero3

The undisturbed run comes first. Each kill comes a moment after a commit, and takes a worker or the driver,
whichever the seed says. A killed worker is started again by Ray; a killed driver by this script, with the same command.
Prints a line for each kill and a verdict. Exit code 1 if the run does not end, or ends in another state.
docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

MOST_S = 1800.0  # of the whole run
AFTER_S = (0.0, 3.0)  # a kill comes so long after a stage has been committed
WORKER = "ray::RayTrainWorker"


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description="kill -9 of workers and drivers, counted.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sharding", choices=("none", "zero3"), default="none")
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True)
    for name in ("first", "undisturbed"):  # the first one makes the model
        begin = time.monotonic()
        undisturbed = _start(args.directory, name, args.sharding).wait(MOST_S)
    one_run = time.monotonic() - begin
    print(f"an undisturbed run takes {one_run:.0f} s", flush=True)
    rng, begin = random.Random(args.seed), time.monotonic()
    done, seen = {"worker": 0, "driver": 0}, 0
    driver, starts = _start(args.directory, "killed", args.sharding), 1
    while sum(done.values()) < args.kills:
        if not _progress(driver, args.directory, seen) or driver.poll() is not None:
            break
        time.sleep(rng.uniform(*AFTER_S))
        if driver.poll() is None:
            victim = _kill(driver, rng.choice(list(done)))
            done[victim], seen = done[victim] + 1, _commits(args.directory)
            print(f"{time.monotonic() - begin:5.0f} s  kill -9 of a {victim}, {seen} stages are committed", flush=True)
        if driver.poll() is not None:
            driver, starts = _start(args.directory, "killed", args.sharding), starts + 1
    code = driver.wait(MOST_S)
    took = time.monotonic() - begin
    ends = [_digest(args.directory, name) for name in ("killed", "undisturbed")]
    same = ends[0] == ends[1] is not None
    kills = f"{sum(done.values())} kills ({done['worker']} workers, {done['driver']} drivers)"
    print(f"{kills}, {starts} starts of the driver, {took:.0f} s; exit codes {code} and {undisturbed} (undisturbed)")
    print(f"states {'equal' if same else 'DIFFERENT'}")
    return int(not same or (code, undisturbed) != (0, 0))


def _start(directory: Path, name: str, sharding: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "elder.jobs.main", "edit", "demo", f"run_id={name}", "model.source=world:tiny",
        "data.source=world:tiny", "data.edits=96", "stream.stage_size=4", "stream.batch_size=4", "editor.steps=20",
        "evaluation.protocols=[generate]", "cluster.workers=2", f"cluster.sharding={sharding}",
        "cluster.max_failures=20", "tracking.mlflow=null", f"tracking.store={directory / 'store'}",
        "tracking.register=null",
    ]  # fmt: skip
    with (directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "ELDER_HOME": str(directory)}
        )


def _kill(driver: subprocess.Popen[bytes], wanted: str) -> str:
    """Kill a worker, if that is wanted and there is one, or the driver; returns which it was."""
    workers = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(WORKER):
                workers.append(process.pid)
        except psutil.Error:  # it has gone meanwhile
            continue
    if wanted == "worker" and workers:
        os.kill(workers[0], signal.SIGKILL)
        return "worker"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return "driver"


def _progress(driver: subprocess.Popen[bytes], directory: Path, seen: int) -> bool:
    """Wait until more stages are committed than were seen; False if the driver ends before, or nothing happens."""
    end = time.monotonic() + MOST_S
    while driver.poll() is None and time.monotonic() < end:
        if _commits(directory) > seen:
            return True
        time.sleep(0.1)
    return False


def _commits(directory: Path) -> int:
    return len(list((directory / "store").glob("**/runs/killed/stages/*/COMMIT.json")))


def _digest(directory: Path, name: str) -> str | None:
    """Digest of the state of the last stage."""
    commits = sorted((directory / "store").glob(f"**/runs/{name}/stages/*/COMMIT.json"))
    return str(json.loads(commits[-1].read_text(encoding="utf-8"))["state_digest"]) if commits else None


if __name__ == "__main__":
    sys.exit(main())
