"""A comparison from its config to its report: the same edits, order, stages and seed under each method.

It receives a store and trackers by protocol. Every method is an ordinary edit run, so the same call again goes on
where an earlier one was cut off. Must not know boto3, mlflow or the command line.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elder.edit import Edit, dataset_digest
from pipelines.compare_config import CompareConfig
from pipelines.compare_report import write_compare_report
from pipelines.compare_result import compare_result
from pipelines.config import RunConfig
from pipelines.fleet import Ended, Member, Parent, World, check_same, run_here, settled, streams_of
from pipelines.job import Kit, Report
from pipelines.patience import PatientStore, patiently, pauses_within
from pipelines.protocols import Store, Tracker

FleetRunner = Callable[[Sequence[Member], World], Mapping[str, Ended]]


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison: the result for `--json`, and what became of every method."""

    result: Mapping[str, Any]
    ended: Mapping[str, Ended]


def run_compare(
    config: CompareConfig,
    store_factory: Callable[[], Store],
    tracker_factory: Callable[[], Tracker],
    on_event: Report = lambda event: None,
    *,
    parallel: int | None = None,
    cache_dir: Path | None = None,
    out: Path | None = None,
    edits: Callable[[RunConfig], Sequence[Edit]] | None = None,
    tags: Mapping[str, str] | None = None,
    kit: Kit | None = None,
    runner: FleetRunner | None = None,
) -> Comparison:
    """Run every method to its end, from wherever an earlier call came to.

    Args:
        config: The resolved comparison; methods of an id that exist are continued, if config and edits are the same.
        store_factory: Picklable; makes the store, here and inside workers.
        tracker_factory: Makes a tracker for the comparison and one for each method.
        on_event: Receives `member`, `note` and the runs' own events; called from several threads.
        parallel: Methods at the same time on a cluster.
        cache_dir: Where the embedded model is kept.
        out: Receives the report; default: only the store does.
        edits: The stream for a config; default: the config's data, checked.
        tags: Further tags of all tracked runs.
        kit: How workers make their parts; for tests.
        runner: Does the runs; default: this process for `cluster.workers: 0`, else Ray.

    Raises:
        InputError: Config, data or model are wrong, or an id belongs to another run; nothing was started.
        UnreachableError: Cluster, store or tracker does not answer; what is committed stands.
    """
    begun = time.time()
    members, sharding = settled(config.members)
    store = PatientStore(store_factory(), config.run.tracking.patience_s, lambda text: _note(on_event, text))
    check_same(members, store)
    streams = streams_of(members, edits, cache_dir)
    world = World(
        store_factory, tracker_factory, on_event, streams, sharding, cache_dir, dict(tags or {}), kit or Kit()
    )
    stream = world.stream(members[0].config)
    root = f"compares/{config.compare_id}"
    store.put(f"{root}/config.yaml", config.dump_yaml().encode())
    parent = _parent(config, tracker_factory(), tags or {}, on_event)
    world = replace(world, parent=parent.open(_dataset(config.run, stream)))
    if parent.url():
        _note(on_event, f"watch the comparison: {parent.url()}")
    try:
        ended = (runner or _choose(config, parallel))(members, world)
        result = compare_result(config, members, ended, store, stream, {"wall_s": round(time.time() - begun, 3)})
        _report(config, result, store, root, parent, out)
    except KeyboardInterrupt:
        parent.abandon("KILLED")
        raise
    except BaseException:
        parent.abandon("FAILED")
        raise
    return Comparison(result, ended)


def _choose(config: CompareConfig, parallel: int | None) -> FleetRunner:
    if config.run.cluster.workers == 0:
        return run_here
    from pipelines.fleet_ray import fleet_runner

    return fleet_runner(parallel or config.compare.parallel)


def _parent(config: CompareConfig, tracker: Tracker, tags: Mapping[str, str], on_event: Report) -> Parent:
    own = {
        "elder.kind": "compare",
        "elder.compare_id": config.compare_id,
        "elder.methods": ", ".join(member.name for member in config.members),
        "elder.strategy": config.compare.strategy,
        "elder.base_model": config.run.model.source,
        "elder.config_digest": config.digest(),
    }
    pauses = pauses_within(config.run.tracking.patience_s)

    def patience(call: Callable[[], Any]) -> Any:
        return patiently(call, pauses, lambda text: _note(on_event, text), "the tracker")

    return Parent(tracker, config.compare_id, config.run.name, config.to_dict(), {**own, **tags}, patience)


def _report(
    config: CompareConfig, result: Mapping[str, Any], store: PatientStore, root: str, parent: Parent, out: Path | None
) -> None:
    """Write the report where the user asked for it, in the store and in the tracker."""
    with tempfile.TemporaryDirectory() as folder:
        directory = out or Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        files = ["result.json", *write_compare_report(directory, result, config.dump_yaml())]
        for name in files:
            store.put(f"{root}/report/{name}", directory / name)
        figures = {
            f"{name}/{metric}": float(value)
            for name, one in result["methods"].items()
            for metric, value in one["final"].items()
        }
        edits = int(result["dataset"]["count"])
        parent.close(directory, files, figures, edits, not result["failed"])


def _dataset(run: RunConfig, stream: Sequence[Edit]) -> dict[str, Any]:
    data = run.data
    source = data.path or data.source
    return {"name": data.source, "digest": dataset_digest(stream), "source": source, "count": len(stream)}


def _note(on_event: Report, text: str) -> None:
    with suppress(Exception):
        on_event({"kind": "note", "text": text})
