"""Model directories: every one of their files, mutated as values and as bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random

import torch

from elder.models.load import load_base
from tests.elder.tiny import make_model, make_tokenizer
from tests.fuzz.judge import Case
from tests.fuzz.mutate import Untouched, as_json, mutated_bytes, mutated_value

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "weights")


@cache
def files_of_a_model(family: str, kind: str) -> Mapping[str, bytes]:
    """The files of a small model: one safetensors file, shards with an index, or a pickle."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(family)
        model.save_pretrained(folder, max_shard_size="60KB" if kind == "shards" else "1GB")
        make_tokenizer().save_pretrained(folder)
        if kind == "pickle":
            torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")
            (Path(folder) / "model.safetensors").unlink()
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _case(kind: str) -> Case:
    def make(rng: Random, folder: Path) -> Callable[[], object]:
        files = dict(files_of_a_model(rng.choice(("llama", "gpt2")), kind))
        name = rng.choice(FILES)
        if name == "weights":
            name = rng.choice([file for file in files if "model" in file])
        if rng.random() < 0.03 and not isinstance(rng, Untouched):
            del files[name]
        elif name.endswith(".json") and rng.random() < 0.7:
            files[name] = as_json(rng, mutated_value(rng, json.loads(files[name])))
        else:
            files[name] = mutated_bytes(rng, files[name])
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return lambda: load_base(str(folder), device="cpu")

    return make


MODELS: Mapping[str, Case] = {f"models-{kind}": _case(kind) for kind in ("file", "shards", "pickle")}
