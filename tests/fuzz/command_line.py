"""Arguments of `elder`, in this process; what would start work is stopped where the work begins."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from unittest.mock import patch

from elder.errors import InputError
from elder.jobs.main import main
from tests.fuzz.edit_files import OWN
from tests.fuzz.judge import Case
from tests.fuzz.models import files_of_a_model
from tests.fuzz.mutate import ODD_TEXTS, Untouched, mutated_bytes, odd_value

CONFIG = """
model: {source: model}
data: {source: jsonl, path: edits.jsonl}
stream: {stage_size: 2, batch_size: 1}
editor: {method: elder, layers: [2, 3], rank: 2, steps: 2}
cluster: {workers: 0}
tracking: {mlflow: null}
"""
LINES = {
    "validate": ("validate", "run.yaml", "editor.lr=1e-3", "--json", "out.json"),
    "plan": ("plan", "run.yaml", "cluster.workers=2", "seed=3"),
    "edit": ("edit", "run.yaml", "--run-id", "r-1", "--address", "local", "stream.stage_size=4", "--json", "out.json"),
    "ls": ("ls", "methods", "--json", "out.json"),
}
KEYS = (
    "seed", "editor.rank", "editor.lr", "data.path", "data.source", "model.source", "run_id", "tracking.store",
    "editor.layers", "gates.reliability", "data.edits", "editor", "data",
)  # fmt: skip
LONGEST = 100_000  # characters of an argument; no shell hands over more


def _case(verb: str) -> Case:
    def make(rng: Random, folder: Path) -> Callable[[], object]:
        (folder / "model").mkdir()
        for name, content in files_of_a_model("llama", "file").items():
            (folder / "model" / name).write_bytes(content)
        (folder / "edits.jsonl").write_text(json.dumps(OWN) + "\n" + json.dumps({**OWN, "id": "2", "prompt": "B is"}))
        (folder / "run.yaml").write_text(CONFIG)
        given = _mutated(rng, list(LINES[verb]))

        def call() -> object:
            said = io.StringIO()
            offline = patch("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            with chdir(folder), redirect_stdout(io.StringIO()), redirect_stderr(said), offline, _no_work():
                code = main(given)
            if code == 2:
                raise InputError(said.getvalue())
            assert code == 0, f"{given} ended with {code}: {said.getvalue()[-3000:]}"
            return None

        return call

    return make


def _no_work():  # type: ignore[no-untyped-def]
    from elder.jobs.commands import edit

    return patch.multiple(edit, perform=lambda *_: {}, finish=lambda *_: None)


def _mutated(rng: Random, line: list[str]) -> list[str]:
    """The arguments behind the verb, changed."""
    if isinstance(rng, Untouched):
        return line
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(1, len(line) + 1), rng.randrange(6)
        odd = rng.choice((rng.choice(ODD_TEXTS), str(odd_value(rng))))
        if kind == 0:
            line.insert(at, odd)
        elif kind == 1 and at < len(line):
            del line[at]
        elif kind == 2 and at < len(line):
            line[at] = odd
        elif kind == 3 and at < len(line):
            line[at] = os.fsdecode(mutated_bytes(rng, line[at].encode(errors="surrogatepass")))
        elif kind == 4:
            line.insert(at, f"{rng.choice(KEYS)}={odd}")
        else:
            line.insert(at, rng.choice(line))
    given = [argument.replace("\0", "")[:LONGEST] for argument in line]  # a process gets neither
    return [os.fsdecode(argument.encode(errors="surrogatepass")) for argument in given]  # as bytes of the shell come


COMMAND_LINE: Mapping[str, Case] = {f"arguments-{verb}": _case(verb) for verb in LINES}
