"""A weight editor's whole way with a real MLflow server: from the edit to the model that plain transformers loads.

Edited, promoted, pulled, asked, measured again, rolled back, exported; on the small embedded world.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import elder as library
from elder.editors.weights.rollback import rolled_back
from elder.state import state_digest
from tests.infra.servers import mlflow_server
from tests.jobs.conftest import Elder, elder  # noqa: F401  # a fixture

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
MEMIT = (
    "{method: memit, fact_token: last, layers: [2], lr: 1.0, steps: 40, contexts: 0, clamp: 4, ridge: 10, "
    "text_tokens: 20000}"
)
KEPT = ("reliability.generate", "generalization.generate", "locality.generate")
RUN = (
    "model.source=world:tiny", "data.source=world:tiny", "data.edits=6", "stream.stage_size=3", "stream.batch_size=3",
    f"editor={MEMIT}", "evaluation.protocols=[generate]", "gates.reliability=0", "gates.locality=0",
    "cluster.workers=0", "cluster.sharding=none", "tracking.register=facts", "tracking.alias=candidate",
)  # fmt: skip


@pytest.fixture
def served(database: Path, tmp_path: Path) -> Iterator[str]:
    with mlflow_server(database, str(tmp_path / "artifacts"), {}) as url:
        yield url


def said(model: Any, tokenizer: Any, edits: Sequence[library.Edit]) -> list[str]:
    found = []
    for edit in edits:
        ids = tokenizer(edit.prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        found.append(tokenizer.decode(made, skip_special_tokens=True))
    return found


def test_from_edit_to_export(
    elder: Elder,  # noqa: F811
    tmp_path: Path,
    served: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    home = tmp_path / "home"
    if "ELDER_HOME" in os.environ:  # what is trained already need not be trained again
        shutil.copytree(os.environ["ELDER_HOME"], home)
    monkeypatch.setenv("ELDER_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served)
    done = elder("edit", "demo", *RUN, f"tracking.mlflow={served}", "run_id=w1", "--json", "r.json")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "r.json").read_text())
    assert [stage["edits"] for stage in result["stages"]] == [3, 3]
    shutil.rmtree(tmp_path / "elder-runs")  # all that follows comes from the server

    for stage in (0, 1):
        moved = elder("promote", f"runs:/w1/stage-{stage:04d}", "--alias", "live", "--why", "reviewed")
        assert moved.code == 0, moved.err
    assert elder("pull", "models:/facts@live", "second").code == 0
    edits = library.load_edits("world:tiny", limit=6)
    second = library.load_edited(tmp_path / "second", cache_dir=home)
    assert second.edits_applied == 6
    assert said(second.model, second.base.tokenizer, edits) != said(second.base.model, second.base.tokenizer, edits)

    measured = elder("evaluate", "models:/facts@live", "demo", *RUN, f"tracking.mlflow={served}", "--json", "m.json")
    assert measured.code == 0, measured.err
    again = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert {name: again[name] for name in KEPT} == {name: result["final"][name] for name in KEPT}

    assert elder("export", "models:/facts@live", "whole").code == 0
    assert elder("rollback", "facts", "--to", "previous", "--alias", "live", "--why", "too eager").code == 0
    assert elder("pull", "models:/facts@live", "first").code == 0
    first = library.load_edited(tmp_path / "first", cache_dir=home)
    assert state_digest(first.state_dict()) == state_digest(rolled_back(second, 3).state_dict())
    assert elder("export", "models:/facts@live", "half").code == 0
    assert elder("export", "models:/facts/2", "half-too", "--edits", "3").code == 0
    for place, editor in (("whole", second), ("half", first)):
        model, tokenizer = (c.from_pretrained(tmp_path / place) for c in (AutoModelForCausalLM, AutoTokenizer))
        assert said(model, tokenizer, edits) == said(editor.model, editor.base.tokenizer, edits)
    halves = [(tmp_path / place / "model.safetensors").read_bytes() for place in ("half", "half-too")]
    assert halves[0] == halves[1] != (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not list((tmp_path / "nobody").rglob("worlds"))  # the embedded model is where ELDER_HOME says, once
