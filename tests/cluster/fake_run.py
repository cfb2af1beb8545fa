"""A driver in a process of its own, for tests that kill it: `python -m tests.cluster.fake_run STORE [MARKER]`."""

from __future__ import annotations

import sys

from elder.pipelines.edit.driver import run_edit
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, make_config, make_edits

EDITS, HANG_AT = 10, 6


def main(store: str, marker: str | None = None) -> None:
    """Run ten edits on two Ray workers; with a marker, hang in the middle of stage 1."""
    mishaps = () if marker is None else (Mishap("sleep", HANG_AT, marker, rank=1),)
    config = make_config(cluster={"workers": 2, "sharding": "none", "address": "local"})
    run_edit(config, StoreAt(store), RecordingTracker(), edits=make_edits(EDITS), kit=FakeKit(mishaps=mishaps))


if __name__ == "__main__":
    main(*sys.argv[1:])
