"""`pip install elder` is the client, without torch: its verbs work, and the others name the extra that they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.jobs.bare import bare_elder, bare_python
from tests.jobs.conftest import build_model, records, write_jsonl

ALONE = [
    ("ls", "methods"), ("ls", "datasets"), ("ls", "configs"), ("ls", "config-reference"), ("cp", "demo", "mine.yaml"),
    ("validate", "demo"), ("validate", "compare_world"), ("validate", "train/mend_world"), ("validate", "weights/rome"),
    ("plan", "demo"), ("plan", "train/mend_world"), ("edit", "--help"),
]  # fmt: skip
NEEDING = [
    (("edit", "demo"), "elder edit needs torch: pip install 'elder[edit]'"),
    (("demo",), "elder demo needs torch: pip install 'elder[edit]'"),
    (("evaluate", "adapter", "demo"), "elder evaluate needs torch: pip install 'elder[edit]'"),
    (("export", "adapter", "out"), "elder export needs torch: pip install 'elder[edit]'"),
    (("train-editor", "train/mend_world"), "elder train-editor needs torch: pip install 'elder[edit]'"),
    (("tune", "tune/elder_demo"), "elder tune needs torch: pip install 'elder[edit]'"),
    (("compare", "compare_world"), "elder compare needs torch: pip install 'elder[edit]'"),
    (("study", "study.yaml"), "elder study needs torch: pip install 'elder[edit]'"),
    (("plan", "compare_world"), "elder plan needs torch: pip install 'elder[edit]'"),
]
STUDY = """
data: {source: world:tiny, edits: 4}
model: {source: world:tiny}
editor: {method: elder}
study: {methods: {elder: {}}, parts: {sizes: {axis: batch_size, values: [2], strategies: [batch], edits: 4}}}
"""


@pytest.mark.parametrize("verb", ALONE, ids=" ".join)
def test_what_needs_no_server_works(verb: tuple[str, ...], tmp_path: Path) -> None:
    done = bare_elder(*verb, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_validate_says_what_it_could_not_check_and_plan_shows_stages(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", records(8))
    given = ("data.source=jsonl", "data.path=edits.jsonl", "data.edits=8", "stream={stage_size: 4, batch_size: 4}")
    done = bare_elder("validate", "demo", *given, "--json", "found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["edits"] == 8
    assert any(note.startswith("torch and transformers are not installed here") for note in found["notes"])
    (tmp_path / "edits.jsonl").write_text('{"prompt": "A"}\n')
    wrong = bare_elder("validate", "demo", *given, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "edits.jsonl:1" in wrong.stderr
    done = bare_elder("plan", "demo", *given, "--json", "plan.json", cwd=tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [stage["batches"] for stage in plan["stages"]] == [1, 1]
    assert "memory" not in plan
    assert "its shape and the memory of workers need torch here" in done.stdout


@pytest.mark.parametrize(("verb", "line"), NEEDING, ids=[" ".join(verb) for verb, _ in NEEDING])
def test_a_verb_that_needs_more_names_the_extra_in_one_line(verb: tuple[str, ...], line: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    done = bare_elder(*verb, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml"], "nothing was begun"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of seconds in one process."""
    folder = tmp_path_factory.mktemp("small")
    edits, model = write_jsonl(folder / "edits.jsonl", records(2)), build_model(folder / "model", "llama")
    return [
        f"model.source={model}", "data.source=jsonl", f"data.path={edits}",
        "data.edits=null", "stream.batch_size=2", "editor={method: elder, steps: 1, layers: [2, 3], rank: 2}",
        "evaluation={protocols: [forced], probes: 0}", "cluster.workers=0", "cluster.sharding=none",
    ]  # fmt: skip


def test_each_extra_is_asked_for_where_it_is_missed(small: list[str], tmp_path: Path) -> None:
    without_mlflow = ("edit", "demo", *small, "tracking.mlflow=null", "tracking.register=null")
    done = bare_elder(*without_mlflow, "cluster.workers=2", extras=("edit",), cwd=tmp_path)
    assert done.stderr == "error: elder edit needs deepspeed: pip install 'elder[ray]'\n"
    done = bare_elder("edit", "demo", *small, extras=("edit",), cwd=tmp_path)
    assert done.stderr == "error: elder edit needs mlflow with a database: pip install 'elder[tracking]'\n"
    done = bare_elder("runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "mlflow.db is a database of MLflow, which needs mlflow itself: pip install 'elder[tracking]'" in done.stderr
    done = bare_elder("up", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'elder[services]'" in done.stderr
    done = bare_elder(*without_mlflow, extras=("edit",), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_import_deep_inside_a_verb_is_explained_too(tmp_path: Path) -> None:
    code = """
import elder.jobs.commands.cp as cp
def deep(*args, **kwargs):
    try:
        import psutil
    except ImportError as error:
        raise RuntimeError("something else went wrong behind it") from error
cp.command.callback = deep
from elder.jobs.main import main
sys.exit(main(["cp", "demo", "x.yaml"]))
"""
    done = bare_python(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: elder cp needs psutil: pip install 'elder[services]'\n")
    done = bare_python(code.replace("import psutil", "import psutil.absent"), extras=("services",), cwd=tmp_path)
    assert done.returncode == 1, "psutil is there: what is wrong with it is no matter of extras"
    assert "Traceback" in done.stderr


def test_the_library_alone_edits_without_ray_and_mlflow(small: list[str], tmp_path: Path) -> None:
    code = f"""
import elder
base = elder.load_base({small[0].removeprefix("model.source=")!r}, device="cpu")
editor = elder.make_editor("elder", base, steps=1, layers=[2, 3], rank=2)
editor.edit([elder.Edit("Oslo lies in", "Norway")])
editor.save("adapter")
assert elder.load_edited("adapter", base=base).edits_applied == 1
print(sorted({{"ray", "mlflow", "boto3", "rich", "click", "yaml"}} & {{name for name in sys.modules}}))
"""
    done = bare_python(code, extras=("edit",), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"ray", "mlflow"} & set(json.loads(done.stdout.replace("'", '"'))) == set()


@contextmanager
def job_server() -> Iterator[tuple[str, dict[str, Any]]]:
    """As much of Ray's job server as a client speaks to; what it was sent is kept."""
    kept: dict[str, Any] = {"packages": {}, "jobs": {}}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, content: object, code: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def sent(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            if path == "/api/version":
                self.answer({"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"})
            elif path.startswith("/api/packages/"):
                there = path.removeprefix("/api/packages/") in kept["packages"]
                self.answer({}, 200 if there else 404)
            elif path.endswith("/logs"):
                self.answer({"logs": "stage 0 committed\n"})
            elif path == "/api/jobs":
                self.answer(list(kept["jobs"].values()))
            elif path.removeprefix("/api/jobs/") in kept["jobs"]:
                self.answer(kept["jobs"][path.removeprefix("/api/jobs/")])
            else:
                self.answer({}, 404)

        def do_PUT(self) -> None:
            kept["packages"][self.path.removeprefix("/api/packages/")] = self.sent()
            self.answer({})

        def do_POST(self) -> None:
            content = json.loads(self.sent() or b"{}")
            if self.path.endswith("/stop"):
                job = kept["jobs"][self.path.split("/")[3]]
                job |= {"status": "STOPPED", "end_time": 2_000}
                self.answer({"stopped": True})
                return
            name = content["submission_id"]
            kept["jobs"][name] = {
                "type": "SUBMISSION", "submission_id": name, "status": "RUNNING", "start_time": 1_000,
                "entrypoint": content["entrypoint"], "metadata": content["metadata"], "message": "", "job_id": None,
                "runtime_env": content["runtime_env"],
            }  # fmt: skip
            self.answer({"job_id": name, "submission_id": name})

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kept
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("given", [("edit", "demo"), ("train-editor", "train/mend_world"), ("tune", "tune/elder_demo")])
def test_a_job_is_sent_and_looked_after(given: tuple[str, ...], tmp_path: Path) -> None:
    with job_server() as (url, kept):
        where = ("--address", url)
        done = bare_elder("submit", *given, "--run-id", "r1", *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (package,) = kept["packages"].values()
        assert len(package) > 100_000
        assert kept["jobs"]["r1"]["entrypoint"].startswith(f"sh run/start.sh {given[0]} ")
        for verb, words in (
            (("jobs",), "RUNNING"),
            (("status", "r1"), "running"),
            (("logs", "r1"), "stage 0 committed"),
            (("stop", "r1"), "r1"),
            (("status", "r1"), "stopped"),
        ):
            done = bare_elder(*verb, *where, cwd=tmp_path)
            assert words in done.stdout, (verb, done.stdout, done.stderr)
