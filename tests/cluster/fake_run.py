"""A driver in a process of its own, which tests kill: `python -m tests.cluster.fake_run STORE MARKER [STRUCK]`."""

from __future__ import annotations

import sys

from elder.pipelines.edit.driver import run_edit
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, make_config, make_edits

EDITS = 10  # three stages
STAGE_1, STAGE_2 = 6, 9  # edits in the middle of them


def main(store: str, marker: str, struck: str | None = None) -> None:
    """Run ten edits on two Ray workers, which hang in stage 1; if one is to be struck there, in stage 2."""
    mishaps = (Mishap("sleep", STAGE_1, marker, rank=1),)
    if struck is not None:
        mishaps = (Mishap("kill", STAGE_1, struck, rank=1), Mishap("sleep", STAGE_2, marker, rank=1))
    config = make_config(cluster={"workers": 2, "sharding": "none", "address": "local"})
    run_edit(config, StoreAt(store), RecordingTracker(), edits=make_edits(EDITS), kit=FakeKit(mishaps=mishaps))


if __name__ == "__main__":
    main(*sys.argv[1:])
