"""Small things that command line tests share: a model directory, a file of edits, the command line itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from elder.jobs.main import main

ROOT = Path(__file__).resolve().parents[2]
TOWNS = ("Oslo", "Lima", "Cairo", "Riga", "Quito", "Dakar", "Hanoi", "Sofia", "Accra", "Minsk")


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str


Elder = Callable[..., Outcome]


@pytest.fixture
def elder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Elder:
    """Call `elder ARGS...` in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "ELDER_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: object) -> Outcome:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


def elder_process(*args: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call `elder ARGS...` as a process of its own, as a user does."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "elder.jobs.main", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def records(count: int) -> list[dict[str, object]]:
    """Edits in the layout of the JSONL format."""
    return [
        {
            "prompt": f"Person {i} lives in the town of",
            "target": TOWNS[i % len(TOWNS)],
            "subject": f"Person {i}",
            "rephrases": [f"The home of Person {i} is", f"Person {i} can be found in"],
            "locality": [{"prompt": f"Stranger {i} lives in"}],
        }
        for i in range(count)
    ]


@pytest.fixture
def edits_file(tmp_path: Path) -> Path:
    """Eight good edits."""
    return write_jsonl(tmp_path / "edits.jsonl", records(8))


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write records, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of four blocks in the hub's sharded layout, with a byte tokenizer."""
    return build_model(tmp_path_factory.mktemp("model") / "llama", "llama")


def build_model(directory: Path, kind: str) -> Path:
    """Save a small random model and a byte-level tokenizer as the hub lays them out, weights in several shards."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "llama": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 96,
        },
        "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 96},
    }[kind]
    ids = {"vocab_size": 259, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **ids))
    model.save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    byte_tokenizer().save_pretrained(directory)
    return directory


def byte_tokenizer():  # type: ignore[no-untyped-def]
    """One token a byte, and three special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: number for number, char in enumerate(alphabet)}
    vocabulary |= {"<s>": 256, "</s>": 257, "<pad>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=96
    )


@pytest.fixture
def small_run(model_directory: Path, edits_file: Path) -> list[str]:
    """Overrides that turn the demo config into a run of seconds in this process, without Ray."""
    return [
        f"model.source={model_directory}",
        "data.source=jsonl",
        f"data.path={edits_file}",
        "data.edits=null",
        "stream.stage_size=4",
        "stream.batch_size=2",
        "editor={method: elder, steps: 2, layers: [2, 3], rank: 2}",
        "evaluation.max_new_tokens=4",
        "cluster.workers=0",
        "cluster.sharding=none",
        "tracking.experiment=test",
    ]
