"""Two ZeRO-3 ranks whose rows ask for different work: whoever was alone with a collective would wait for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import elder
from elder.edit import Edit
from elder.metrics.generation import Decoder, generate
from elder.runtime import LocalRuntime, Runtime
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import SHADES, THINGS, make_edits, write_model

pytestmark = pytest.mark.ranks
# The subject of the first stands at the very beginning, of the second it does not; no context and no BOS is put before.
EDITS = [Edit("t1 is a thing of colour", "s3", subject="t1"), make_edits(3)[2]]
OPTIONS = {"layers": (1,), "contexts": 0, "steps": 4, "lr": 0.02, "jitter": 0.1, "text_tokens": None, "value_batch": 1}


def _work(runtime: Runtime, source: str, text: str) -> dict[str, Any]:
    base = elder.load_base(source, runtime=runtime)
    editor: Any = elder.make_editor("memit", base, text=text, **OPTIONS)
    receipt = editor.edit(EDITS)
    decoder = Decoder(base.tokenizer, frozenset(), limit=16, batch_size=1, context=64)
    prompts = [
        [3, 4, 5] * 20 + [3, 4],
        [3, 4, 5, 16],
    ]  # the first leaves room for 2 tokens of the 64, the second for 60
    said = generate(editor.model, prompts, decoder, runtime)
    return {"norms": [o.details["value_norm"] for o in receipt.outcomes], "said": [one.ids for one in said]}


def _on_rank(directory: Path, source: str, text: str) -> dict[str, Any]:
    from elder.pipelines.cluster.deepspeed_runtime import DeepSpeedRuntime

    return _work(DeepSpeedRuntime("cpu"), source, text)


def test_rows_of_different_kinds_on_two_ranks(tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "model", "gpt2"))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The colour of t{i} is s{j} ." for i in range(THINGS) for j in range(0, SHADES, 4)))
    alone = _work(LocalRuntime(), source, str(text))
    assert [len(ids) for ids in alone["said"]] == [2, 16]
    for found in on_ranks(_on_rank, tmp_path, source, str(text)):
        assert found["said"] == alone["said"]
        assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
