"""What an unedited base knows and is able to do is the same for two ranks that hold it together as for one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import elder
from elder.ability.item import Item
from elder.ability.measure import AbilityMeter
from elder.edit import Edit
from elder.metrics.known import known_facts
from elder.models.load import load_base
from elder.pipelines.config.run import RunConfig
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.known import RECORD, ask_base
from elder.pipelines.run.known_record import KnownRecord
from elder.pipelines.run.spec import RunSpec
from elder.runtime import LocalRuntime, Runtime
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import make_edits, write_model
from tests.pipelines.fakes import StoreAt, make_config

pytestmark = pytest.mark.ranks
WANTED = 5  # of seven that are known among fifteen: the ranks stop in the middle, with shares of unequal length


def _config(source: str) -> RunConfig:
    return make_config(
        run_id="run-1",
        model={"source": source},
        data={"known": True, "edits": WANTED},
        evaluation={"protocols": ["generate"], "parts": ["reliability"], "max_new_tokens": 4, "batch_size": 2},
    )


def _ability(runtime: Runtime, source: str, edits: list[Edit]) -> dict[str, float]:
    """Scores of the base and of an editor that has learnt something."""
    items = [Item(edit.prompt, (" s1",), (" s0", " s1")) for edit in edits]
    base = load_base(source, runtime=runtime)
    editor = elder.make_editor("elder", base, batch_size=2, steps=6, lr=0.05, layers=(2, 3), rank=2, experts=4)
    editor.edit(edits[:2])
    return AbilityMeter(editor, {"rte": items}, 2).figures()


def _ask(directory: Path, source: str, edits: list[Edit]) -> tuple[list[KnownRecord], dict[str, float]]:
    """What the ranks leave in a store: where every pass gathers each layer, and where the model is whole meanwhile."""
    from elder.pipelines.cluster.deepspeed_runtime import DeepSpeedRuntime

    found = []
    for name, limit in (("layer by layer", 0), ("at once", 2**20)):
        store, runtime = StoreAt(str(directory / name)), DeepSpeedRuntime("cpu", keep_below=limit)
        ask_base(
            RunSpec(config=_config(source), edits=tuple(edits), store_factory=store, sharding="zero3"), runtime, _no
        )
        record = KnownRecord.read(store(), RunState(store(), "run-1").key(RECORD))
        assert record is not None
        found.append(record)
    return found, _ability(DeepSpeedRuntime("cpu"), source, edits)


def _no(event: Any) -> None:
    """Nobody looks."""


def test_two_sharded_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "model", "llama"))
    base = load_base(source, runtime=LocalRuntime("cpu"))
    bare = [replace(edit, ground_truth="nothing") for edit in make_edits(15)]
    said = known_facts(base, bare, None, 4, 2).said
    edits = [replace(edit, ground_truth=said[i]) if i % 2 else edit for i, edit in enumerate(bare)]
    alone = known_facts(base, edits, WANTED, 4, 2)
    assert alone.kept == (1, 3, 5, 7, 9)
    able = _ability(LocalRuntime("cpu"), source, edits)
    assert set(able) == {"ability.rte", "ability.rte.said", "ability_base.rte", "ability_base.rte.said"}
    for records, figures in on_ranks(_ask, tmp_path, source, edits):
        assert figures == able
        for record in records:
            assert (tuple(record.kept), record.asked) == (alone.kept, alone.asked)
            assert record.said == {str(index): text for index, text in alone.said.items()}
            assert record.base == base.digest
