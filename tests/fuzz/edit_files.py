"""Files of edits in every layout, mutated as records and as bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from elder.datasets import load_edits
from elder.datasets.load import validate_stream
from elder.edit import dataset_digest
from tests.elder.datasets.test_layouts import CASE, FEVER, KNOWEDIT, MEND, REDUCED, WIKIBIO
from tests.fuzz.judge import Case
from tests.fuzz.mutate import as_json, mutated_bytes, mutated_value

OWN = {
    "id": "e1",
    "prompt": "Person 1 lives in the town of",
    "target": "Riga",
    "subject": "Person 1",
    "ground_truth": "Oslo",
    "rephrases": ["The home of Person 1 is", "Person 1 can be found in"],
    "locality": [{"prompt": "Stranger 1 lives in", "answer": "Lima"}],
    "portability": [{"prompt": "The country of Person 1 is", "answer": "Latvia"}],
    "source": "census",
    "author": "me",
    "reason": "moved",
}
KILT = {"id": 7, "input": "Stones float.", "output": [{"answer": "REFUTES"}], "alternatives": ["SUPPORTS"],
        "filtered_rephrases": ["Stones swim.", "Stones float."], "logit": -3.0}  # fmt: skip
RECORDS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "jsonl": (OWN, {"prompt": "The mayor of Brend is", "target": "Ula"}),
    "counterfact": (CASE, {**REDUCED, "prompt": "Ada Kelbury once played the"}),
    "zsre": (MEND, {**KNOWEDIT, "prompt": "Who leads Aldmoor?"}),
    "hallucination": (WIKIBIO,),
    "knowedit": (KNOWEDIT,),
    "fever": FEVER,
    "scotus": ({"text": "The court finds " * 20, "label": "Privacy"},),
    "temporal": ({**KNOWEDIT, "prompt": "Aldmoor, a town", "target_new": "lies on the river Venn."},),
    "fever_kilt": (KILT,),
}
NAMED = {"fever_kilt": "fever"}


def _case(layout: str) -> Case:
    def make(rng: Random, folder: Path) -> Callable[[], object]:
        lines = [as_json(rng, mutated_value(rng, dict(record))) for record in RECORDS[layout]]
        whole = rng.random() < 0.25
        content = (
            b"[" + b",".join(lines) + b"]" if whole else b"\n".join(b" ".join(line.split(b"\n")) for line in lines)
        )
        if rng.random() < 0.4:
            content = mutated_bytes(rng, content)
        packed = rng.random() < 0.15
        if packed:
            content = gzip.compress(content, 1)
            content = mutated_bytes(rng, content) if rng.random() < 0.5 else content
        path = folder / f"edits.json{'' if whole else 'l'}{'.gz' if packed else ''}"
        path.write_bytes(content)
        source = NAMED.get(layout, layout) if rng.random() < 0.7 else str(path)

        def call() -> object:
            edits = load_edits(source, None if source == str(path) else path)
            stream = validate_stream(edits, rng.choice(("refuse", "last_wins")))
            return dataset_digest(stream), [edit.training_prompts + edit.heldout_rephrases for edit in stream]

        return call

    return make


EDIT_FILES: Mapping[str, Case] = {f"edits-{layout}": _case(layout) for layout in RECORDS}
