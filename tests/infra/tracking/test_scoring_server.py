"""MLflow's own scoring server around an edited model: eight clients at once, each gets what it gets alone."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import elder
from elder.infra.tracking.elder_pyfunc import save_model
from tests.cluster.tiny import make_edits, write_model

CLIENTS = 8
OTHERS = ["Water", "what is thing t9 ?", "1 + 1 =", "Nobody knew the"]


@contextmanager
def served(model: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a running scoring server in this process."""
    import mlflow.pyfunc
    import uvicorn
    from mlflow.pyfunc.scoring_server import init

    server = uvicorn.Server(uvicorn.Config(init(mlflow.pyfunc.load_model(str(model))), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < until, "the scoring server did not start"
            time.sleep(0.05)
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize(
    ("method", "requests"),
    [
        pytest.param("elder", 200, marks=pytest.mark.cluster),
        pytest.param("elder-plus", 200, marks=pytest.mark.cluster),
        pytest.param("elder-plus", 2000, marks=pytest.mark.nodes),
    ],
)
def test_concurrent_requests_are_answered_like_single_ones(method: str, requests: int, tmp_path: Path) -> None:
    edits = make_edits(4)
    base = elder.load_base(str(write_model(tmp_path / "base", "llama")), device="cpu")
    gates = {"subject_threshold": 0.9, "answer_threshold": 0.9} if method == "elder-plus" else {"epsilon": 2}
    editor = elder.make_editor(method, base, steps=20, lr=1e-2, **gates)
    editor.edit(edits)
    editor.save(tmp_path / "adapter")
    (tmp_path / "work").mkdir()
    save_model(tmp_path / "work" / "model", tmp_path / "adapter", "m-1", "run")
    prompts = [*(edit.prompt for edit in edits), *OTHERS]
    alone = {prompt: editor.ask(prompt, max_new_tokens=4).text for prompt in prompts}
    with editor.without_edits():
        changed = sum(alone[edit.prompt] != editor.ask(edit.prompt, max_new_tokens=4).text for edit in edits)
    assert changed >= 2  # the edits make a difference
    asked = random.Random(0).choices(prompts, k=requests)
    with served(tmp_path / "work" / "model") as (host, port):
        wrong = _ask_all(host, port, asked, alone)
    assert wrong == Counter()


def _ask_all(host: str, port: int, asked: list[str], alone: dict[str, str]) -> Counter[str]:
    """What went wrong, and how often, when eight clients share out the requests."""
    lock, wrong = threading.Lock(), Counter[str]()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        for prompt in asked[number::CLIENTS]:
            body = json.dumps({"inputs": [prompt], "params": {"max_new_tokens": 4}})
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            said = json.loads(answer)["predictions"][0] if response.status == 200 else f"HTTP {response.status}"
            if said != alone[prompt]:
                with lock:
                    wrong[f"{prompt!r}: {said!r} for {alone[prompt]!r}"] += 1
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in [clients.submit(client, number) for number in range(CLIENTS)]:
            done.result()
    return wrong
