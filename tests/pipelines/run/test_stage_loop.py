"""The stage loop in one process: purity of stages, replay, retention, gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from elder.ability.item import Item
from elder.errors import AdapterError, ElderError, GateError, RunTakenOver
from elder.pipelines.run.commits import Commit, RunState
from elder.pipelines.run.local_runner import run_locally
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.stage_loop import measured_edits, retention_row
from elder.pipelines.run.stage_plan import split
from elder.runtime import LocalRuntime
from tests.pipelines.fakes import FakeEditor, FakeKit, FakeMeter, Mishap, StoreAt, make_config, make_edits


def make_job(root: Path, count: int = 10, kit: FakeKit | None = None, **sections: Any) -> RunSpec:
    return RunSpec(make_config(**sections), make_edits(count), StoreAt(str(root / "store")), kit=kit or FakeKit())


def commits(job: RunSpec) -> list[Commit]:
    return RunState(job.store_factory(), job.config.run_id).commits()


def quiet(event: Mapping[str, Any]) -> None:
    pass


def test_stages_are_committed_in_order_with_all_edits(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    events: list[dict[str, Any]] = []
    run_locally(job, lambda event: events.append(dict(event)))
    found = commits(job)
    assert [(c.stage, c.first, c.edits) for c in found] == [(0, 0, 4), (1, 4, 8), (2, 8, 10)]
    assert [c.parent for c in found] == ["", found[0].state_digest, found[1].state_digest]
    assert set(found[0].files) == {"adapter.safetensors", "manifest.json", "results.jsonl", "metrics.json"}
    assert [e["edits"] for e in events if e["kind"] == "committed"] == [4, 8, 10]
    assert [e["name"] for e in events if e["kind"] == "phase"] == ["load", *["edit", "evaluate", "commit"] * 3]
    assert found[0].timing["load_s"] > 0
    assert found[1].timing["load_s"] == 0.0


def test_a_sharded_model_is_brought_together_once_to_edit_and_once_to_measure(tmp_path: Path) -> None:
    log: list[str] = []

    class Gathering(LocalRuntime):
        @contextmanager
        def kept(self, model: Any) -> Iterator[None]:
            log.append("gather")
            yield
            log.append("drop")

    job = make_job(tmp_path, 4)
    run_stages(job, Gathering("cpu"), lambda event: log.append(str(event.get("name", event["kind"]))))
    assert [one for one in log if one != "batch"] == [
        "load", "edit", "gather", "drop", "evaluate", "gather", "evaluated", "drop", "commit", "committed"
    ]  # fmt: skip
    assert log.index("gather") < log.index("batch") < log.index("drop")


def test_a_finished_run_loads_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    run_locally(job, quiet)
    events: list[Any] = []
    run_locally(job, events.append)
    assert events == []


@pytest.mark.parametrize("edit", [0, 3, 5, 9])
def test_a_run_that_broke_off_ends_in_the_same_state(tmp_path: Path, edit: int) -> None:
    undisturbed = make_job(tmp_path / "a")
    run_locally(undisturbed, quiet)
    broken = make_job(tmp_path / "b", kit=FakeKit(mishaps=(Mishap("raise", edit, str(tmp_path / "struck")),)))
    with pytest.raises(ValueError, match="stumbled"):
        run_locally(broken, quiet)
    assert len(commits(broken)) == edit // 4
    run_locally(broken, quiet)
    assert [c.state_digest for c in commits(broken)] == [c.state_digest for c in commits(undisturbed)]
    assert commits(broken)[-1].metrics["reliability.generate"] == 1.0  # every edit applied exactly once


def test_randomness_outside_does_not_reach_a_stage(tmp_path: Path) -> None:
    first, second = make_job(tmp_path / "a"), make_job(tmp_path / "b")
    torch.manual_seed(1)
    run_locally(first, quiet)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    run_locally(second, quiet)
    assert torch.equal(before, torch.get_rng_state())
    assert commits(first)[-1].state_digest == commits(second)[-1].state_digest
    other = make_job(tmp_path / "c", seed=1)
    run_locally(other, quiet)
    assert commits(other)[-1].state_digest != commits(first)[-1].state_digest


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    kit = FakeKit(mishaps=(Mishap("raise", 5, str(tmp_path / "struck")),))
    job = make_job(tmp_path, kit=kit)
    with pytest.raises(ValueError, match="stumbled"):
        run_locally(job, quiet)
    with pytest.raises(AdapterError, match="Give back the old weights"):
        run_locally(dataclasses.replace(job, kit=dataclasses.replace(kit, weight=2.0)), quiet)


class _Forgetful(FakeEditor):
    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.ids = self.ids[:-1]


class _ForgetfulKit(FakeKit):
    def editor(self, job: RunSpec, base: Any) -> Any:
        return _Forgetful(base, 2, 0, self.mishaps)


def test_a_state_that_does_not_survive_loading_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, kit=_ForgetfulKit(mishaps=(Mishap("raise", 5, str(tmp_path / "struck")),)))
    with pytest.raises(ValueError, match="stumbled"):
        run_locally(job, quiet)
    with pytest.raises(AdapterError, match="load_state_dict loses something"):
        run_locally(job, quiet)


class _Warner(FakeEditor):
    def edit(self, edits: Any, progress: Any = None) -> Any:
        return dataclasses.replace(super().edit(edits, progress), warnings=("it is blind",))


class _WarnerKit(FakeKit):
    def editor(self, job: RunSpec, base: Any) -> Any:
        return _Warner(base, 2, 0, self.mishaps)


def test_what_a_method_warns_of_is_told_after_each_stage(tmp_path: Path) -> None:
    said: list[str] = []
    run_locally(make_job(tmp_path, kit=_WarnerKit()), lambda event: said.append(event.get("text", "")))
    assert [text for text in said if "blind" in text] == [f"after stage {i}: it is blind" for i in range(3)]


class _Drifted(LocalRuntime):
    """Two ranks of which the other holds something else."""

    def gather_objects(self, item: Any) -> list[Any]:
        return [item, "another digest"] if isinstance(item, str) else [item]


def test_replicas_that_drift_apart_stop_the_run(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(ElderError, match="different adapters"):
        run_stages(job, _Drifted(), quiet)
    assert commits(job) == []


def test_a_gate_refuses_and_earlier_stages_stand(tmp_path: Path) -> None:
    class Failing(FakeMeter):
        def measure(self, edits: Any, parts: Any, progress: Any = None, so_far: Any = None) -> Any:
            report = super().measure(edits, parts, progress)
            if len(edits) > 4:
                report.metrics["reliability.generate"] = 0.5
            return report

    class Kit(FakeKit):
        def meter(self, job: RunSpec, editor: Any) -> Any:
            return Failing(editor)

    job = make_job(tmp_path, kit=Kit(), gates={"reliability": 0.9})
    events: list[Any] = []
    with pytest.raises(GateError, match=r"stage 1 \(edits 4 to 7\)"):
        run_locally(job, events.append)
    assert [c.stage for c in commits(job)] == [0]
    assert [e["stage"] for e in events if e["kind"] == "refused"] == [1]
    left = job.store_factory().list("runs/run-1/stages/000001/")
    assert sorted(key.rsplit("/", 1)[1] for key in left) == ["metrics.json", "results.jsonl"]


def test_rows_name_their_stage_and_carry_outcomes(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    run_locally(job, quiet)
    state = RunState(job.store_factory(), "run-1")
    rows = state.read_rows(state.commits()[-1])
    assert [row["stage"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 2
    assert [("accepted" in row) for row in rows] == [False] * 8 + [True] * 2
    assert [("before" in row) for row in rows] == [True] * 3 + [False] * 7


def test_retention_sample_is_fixed_and_the_last_stage_is_measured_whole() -> None:
    stages = split(30, 10, 5)
    early, late = (measured_edits(stages, now, "sample", 4, seed=7) for now in (1, 1))
    assert early == late
    assert len(early) == 4 + 10
    assert early[4:] == list(range(10, 20))
    assert set(early[:4]) < set(range(10))
    assert measured_edits(stages, 2, "sample", 4, seed=7) == list(range(30))
    assert measured_edits(stages, 1, "all", 4, seed=7) == list(range(20))
    assert measured_edits(stages, 1, "sample", 4, seed=8) != early


def test_each_edit_is_measured_once_for_all_figures(tmp_path: Path) -> None:
    meters: list[FakeMeter] = []

    class Kit(FakeKit):
        def meter(self, job: RunSpec, editor: Any) -> Any:
            meters.append(FakeMeter(editor))
            return meters[-1]

    job = make_job(tmp_path, kit=Kit(), evaluation={"probes": 0, "protocols": ["generate"]})
    run_locally(job, quiet)
    ids = [edit.id for edit in job.edits]
    assert meters[0].asked == [ids[:4], ids[:8], ids]


def test_retention_row_is_the_mean_of_each_stage() -> None:
    rows = [{"stage": 0, "x": 1.0}, {"stage": 0, "x": 0.0}, {"stage": 1, "x": 1.0}]
    assert retention_row(rows, "x", 1) == [0.5, 1.0]
    assert retention_row(rows, "absent", 1) == []


def test_an_older_driver_stops_at_its_next_stage(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    state = RunState(job.store_factory(), job.config.run_id)
    older = dataclasses.replace(job, claim=state.drivers.take({"host": "one"}))

    def take_over(event: Mapping[str, Any]) -> None:
        if event["kind"] == "phase" and event["name"] == "evaluate" and event["stage"] == 1:
            state.drivers.take({"host": "two"})

    with pytest.raises(RunTakenOver, match="host two"):
        run_locally(older, take_over)
    assert len(commits(job)) == 1  # measured already, and yet the stage is the other driver's to commit


@dataclasses.dataclass(frozen=True)
class AbilityKit(FakeKit):
    """An editor that forgets a tenth of what it could with every stage."""

    def ability(self, job: RunSpec, editor: Any) -> Any:
        return self if job.ability else None

    def figures(self, progress: Any) -> dict[str, float]:
        after = {"ability.rte": 0.9 - 0.1 * len(self.seen)}
        self.seen.append(1)
        return {"ability_base.rte": 1.0, **after}

    seen: list[int] = dataclasses.field(default_factory=list)


def test_a_stage_that_costs_too_much_ability_is_refused(tmp_path: Path) -> None:
    asked = {"protocols": ["generate"], "ability": {"tasks": ["rte"]}}
    job = make_job(tmp_path, kit=AbilityKit(), evaluation=asked, gates={"ability.rte": 0.2})
    job = dataclasses.replace(job, ability={"rte": (Item("?"),)})
    with pytest.raises(GateError, match=r"gates\.ability\.rte: 0\.7000 is 0\.3000 below the unedited model's 1\.0000"):
        run_locally(job, quiet)
    assert [commit.metrics["ability.rte"] for commit in commits(job)] == pytest.approx([0.9, 0.8])
    assert all(commit.metrics["ability_base.rte"] == 1.0 for commit in commits(job))
