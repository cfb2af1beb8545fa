"""What a newcomer runs first works and says what it should: three scripts and a notebook."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import elder
from elder.edit import Edit
from elder.world.cache import ensure_world

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = "first_steps.ipynb"
SCRIPTS = ("edit_a_model.py", "compare_methods.py", "serve_an_adapter.py")
Run = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def world() -> None:
    """The base model of all examples, trained once in a session (see `tests/conftest.py`)."""
    ensure_world("tiny", os.environ["ELDER_HOME"])


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    return elder.load_edits("world:tiny", limit=5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example as a program in an empty directory; what it printed. It leaves nothing there."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_all_of_them_are_tested_and_shown_in_the_readme() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert there == {*SCRIPTS, NOTEBOOK}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(there) if f"examples/{name}" not in readme] == []


def test_a_model_is_edited_saved_and_loaded(run: Run, edits: list[Edit], tmp_path: Path) -> None:
    said = run("edit_a_model.py")
    for edit in edits[:3]:
        assert said.count(f"{edit.ground_truth}.  ->  {edit.target}.") == 2  # the prompt, and other words
        neighbour = edit.locality[0].answer
        assert f"{neighbour}.  ->  {neighbour}." in said
    assert f"asked again it says '{edits[0].target}.', by edit {edits[0].id}" in said
    assert "the base model is as it was: True" in said
    assert list(tmp_path.iterdir()) == []


def test_methods_are_compared_in_a_table(run: Run) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in run("compare_methods.py").splitlines() if line.strip()}
    assert rows["method"] == ["reliability", "generalization", "locality", "seconds"]
    shares = {name: [float(cell) for cell in rows[name][:3]] for name in ("elder-plus", "memit", "rome")}
    assert all(0 <= share <= 1 for cells in shares.values() for share in cells)
    assert min(shares["elder-plus"]) >= 0.9
    assert shares["elder-plus"][0] > shares["memit"][0]


def test_an_adapter_is_served(run: Run, edits: list[Edit], tmp_path: Path) -> None:
    base = elder.load_base("world:tiny", device="cpu", cache_dir=os.environ["ELDER_HOME"])
    editor = elder.make_editor("elder-plus", base, terminator="sentence")
    editor.edit(edits)
    editor.save(tmp_path / "adapter")
    own, given = run("serve_an_adapter.py"), run("serve_an_adapter.py", "adapter")
    for said in (own, given):
        edited, untouched = (json.loads(line[5:]) for line in said.splitlines() if line.startswith("  -> "))
        assert (edited["text"], edited["edit"]) == (f"{edits[0].target}.", edits[0].id)
        assert untouched == {"text": f"{edits[0].locality[0].answer}.", "edit": None, "score": None}


def test_a_served_adapter_says_what_is_wrong_with_a_request(edits: list[Edit]) -> None:
    import threading
    import urllib.error
    from http.server import ThreadingHTTPServer

    names = runpy.run_path(str(EXAMPLES / "serve_an_adapter.py"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), names["handler"](None))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        names["post"](f"http://127.0.0.1:{server.server_port}", {"question": edits[0].prompt})
    server.shutdown()
    server.server_close()
    assert caught.value.code == 400
    assert "expected a JSON object with a prompt" in json.load(caught.value)["error"]


def test_the_notebook_runs_and_is_kept_without_outputs(edits: list[Edit], capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / NOTEBOOK).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {}
    said = []
    for cell in cells:
        exec("".join(cell["source"]), names)
        said.append(capsys.readouterr().out)
    assert all(said), "every cell shows something"
    assert f"-> {edits[0].target}. (edit {edits[0].id})" in "".join(said)
    assert said[-1].splitlines()[-1] == f"{edits[0].target}."
