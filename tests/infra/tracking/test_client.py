"""What `pip install elder` does with a real MLflow server: the small mlflow reads, pulls and promotes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from elder.infra.tracking.tracker import MlflowTracker
from tests.contracts.tracker import CONFIG, write_adapter
from tests.infra.servers import mlflow_server
from tests.jobs.bare import bare_elder

pytestmark = pytest.mark.cluster


def test_every_verb_that_asks_mlflow(empty_database: Path, tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / name, name.encode()) for name in ("first", "second")]
    database = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    with mlflow_server(database, str(tmp_path / "artifacts"), {}) as url:
        tracker = MlflowTracker(url, "client")
        tracker.start("r1", "r1", CONFIG, {})
        models = [tracker.log_adapter(stage, adapter, {"x": 1.0}, 10) for stage, adapter in enumerate(adapters)]
        assert [tracker.register(model, "facts", None, {}) for model in models] == [1, 2]
        tracker.finish("FINISHED")
        for verb, words in (
            (("runs",), "r1"),
            (("show", "r1"), "r1"),
            (("promote", "models:/facts/1", "--who", "me"), "models:/facts@champion: no version -> version 1"),
            (("promote", "r1", "--name", "facts", "--who", "me"), "version 1 -> version 2"),
            (("show", "models:/facts"), "champion"),
            (("rollback", "facts", "--to", "previous", "--who", "me"), "version 2 -> version 1"),
            (("pull", "models:/facts@champion", "adapter"), "elder adapter for world:small, 10 edits, files verified"),
        ):
            done = bare_elder(*verb, "--mlflow", url, cwd=tmp_path)
            assert done.returncode == 0, (verb, done.stderr)
            assert words in done.stdout, (verb, done.stdout)
    assert (tmp_path / "adapter" / "adapter.safetensors").read_bytes() == b"first"
    assert json.loads((tmp_path / "adapter" / "manifest.json").read_text())["method"] == "elder"
