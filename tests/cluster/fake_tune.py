"""A search in a process of its own, for tests that kill it: `python -m tests.cluster.fake_tune STORE MARKER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.pipelines.fakes import Mishap
from tests.pipelines.tune_fakes import TuneKit, make_search, search

HANG_AT = 6


def main(root: str, marker: str) -> None:
    """Search one trial at a time; the second one hangs in the middle of its second stage."""
    from elder.pipelines.search.trial_loop import run_on_cluster

    config = make_search(cluster={"address": "local"}, searcher="tpe", concurrent=1)
    kit = TuneKit(mishaps=(Mishap("sleep", HANG_AT, marker, after=f"{root}/store/tunes/s1/results/0000.json"),))
    search(Path(root), config, runner=run_on_cluster, kit=kit)


if __name__ == "__main__":
    main(*sys.argv[1:])
