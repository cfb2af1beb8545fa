"""What two ranks load is what one process loads: under ZeRO-3, data parallel, in every number format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from elder.errors import ModelError
from elder.models.anatomy import clone_sharing_weights
from elder.models.load import load_base
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.spec import WorkerParts
from elder.runtime import LocalRuntime
from elder.state import weights_digest
from tests.cluster.ranks import on_ranks
from tests.cluster.tiny import vocabulary, write_model
from tests.pipelines.run.test_stage_loop import make_job

pytestmark = pytest.mark.ranks
IDS = torch.randint(3, 40, (2, 10), generator=torch.Generator().manual_seed(3))
FORMATS = ("float32", "bfloat16", "float16")
BAD = ("lacking", "broken", "apart-tied", "elsewhere")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model directories, whole and spoilt."""
    root = tmp_path_factory.mktemp("models")
    whole = write_model(root / "whole", "llama")
    tokenizer = [file.name for file in whole.iterdir() if file.name.startswith("token")]

    def copied(name: str) -> Path:
        return Path(shutil.copytree(whole, root / name))

    def write(name: str, tied: bool, same: bool) -> None:
        """A model whose file holds embedding and head, with the same values or others."""
        torch.manual_seed(1)
        shape = LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, vocab_size=len(vocabulary()), initializer_range=0.3, eos_token_id=1,
        )  # fmt: skip
        LlamaForCausalLM(shape).save_pretrained(root / name)
        state = load_file(root / name / "model.safetensors")
        if same:
            state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        save_file(state, root / name / "model.safetensors", {"format": "pt"})
        config = json.loads((root / name / "config.json").read_text())
        (root / name / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
        for file in tokenizer:
            shutil.copy(whole / file, root / name / file)

    write("apart", tied=False, same=False)
    write("twice", tied=True, same=True)
    write("apart-tied", tied=True, same=False)
    write_model(root / "gpt2", "gpt2")  # its file holds no head: it is the embedding
    index = json.loads((copied("lacking") / "model.safetensors.index.json").read_text())
    shard = root / "lacking" / index["weight_map"]["model.layers.2.mlp.up_proj.weight"]
    save_file({k: v for k, v in load_file(shard).items() if "layers.2.mlp.up" not in k}, shard, {"format": "pt"})
    shard = copied("broken") / index["weight_map"]["model.layers.3.mlp.down_proj.weight"]
    state = load_file(shard)
    state["model.layers.3.mlp.down_proj.weight"][-1, -1] = torch.nan  # the last value: only the last rank holds it
    save_file(state, shard, {"format": "pt"})
    index["weight_map"]["lm_head.weight"] = "../whole/model-00001-of-00002.safetensors"
    (copied("elsewhere") / "model.safetensors.index.json").write_text(json.dumps(index))
    return {path.name: str(path) for path in sorted(root.iterdir())}


def _runtime(sharding: str) -> Any:
    from elder.pipelines.cluster.deepspeed_runtime import DataParallelRuntime, DeepSpeedRuntime

    return DeepSpeedRuntime("cpu") if sharding == "zero3" else DataParallelRuntime("cpu")


def _refusal(source: str, runtime: Any) -> str:
    try:
        load_base(source, runtime=runtime)
    except ModelError as error:
        return str(error)
    return ""


@torch.no_grad()
def _loaded(source: str, dtype: str, runtime: Any) -> dict[str, Any]:
    base = load_base(source, dtype=dtype, runtime=runtime)
    model = clone_sharing_weights(base.model)
    runtime.prepare(model)
    return {
        "digest": base.digest,
        "again": weights_digest(base.model, runtime),
        "logits": model(input_ids=IDS).logits,
        "format": str(base.model.dtype),
        "said": str(base.model.config.dtype),
    }


@torch.no_grad()
def _as_transformers_loads(source: str, runtime: Any) -> tuple[str, torch.Tensor]:
    """Without our refusals: what `loading()` alone does to a file that holds apart what the config ties."""
    with runtime.loading(torch.float32):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    digest = weights_digest(model, runtime)
    runtime.prepare(model)
    return digest, model(input_ids=IDS).logits


def _on_rank(directory: Path, places: dict[str, str], sharding: str) -> dict[str, Any]:
    runtime = _runtime(sharding)
    good = [name for name in places if name not in BAD]
    found: dict[str, Any] = {
        f"{name} {dtype}": _loaded(places[name], dtype, runtime) for name in good for dtype in FORMATS
    }
    found |= {name: _refusal(places[name], runtime) for name in BAD}
    found["untied"] = _as_transformers_loads(places["apart-tied"], runtime)
    found["mapped"] = [_mapped(places["whole"], dtype, runtime) for dtype in ("float32", "bfloat16")]
    found["trials"] = _trials(directory, places["whole"], runtime)
    return found


def _mapped(source: str, dtype: str, runtime: Any) -> set[str]:
    """The files whose pages the weights of a rank are, by where these lie in its memory."""
    base = load_base(source, dtype=dtype, runtime=runtime)
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split("-"))
        spans.append((begin, end, path[0] if inode != "0" else ""))
    places = [p.data_ptr() for p in base.model.parameters()]
    return {path for place in places for begin, end, path in spans if begin <= place < end}


def _trials(directory: Path, source: str, runtime: Any) -> list[tuple[str, str]]:
    """Trials that differ in `model.dtype`, one after another on what stays resident."""
    bases, seen = ResidentBases(), []
    for dtype in ("float32", "bfloat16", "bfloat16", "float32"):
        job = make_job(directory, kit=WorkerParts(), model={"source": source, "dtype": dtype})
        base = bases.get(job, runtime)
        seen.append((str(base.model.dtype), base.digest))
    assert bases.loads == 3
    return seen


@pytest.fixture(scope="module", params=["none", "zero3"])
def ranks(
    request: pytest.FixtureRequest, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    return on_ranks(_on_rank, tmp_path_factory.mktemp("ranks"), places, str(request.param))


@pytest.mark.parametrize("name", ["whole", "gpt2", "apart", "twice"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_directory_is_one_model_however_it_is_loaded(
    ranks: list[dict[str, Any]], places: dict[str, str], name: str, dtype: str
) -> None:
    alone = _loaded(places[name], dtype, LocalRuntime())
    for found in (rank[f"{name} {dtype}"] for rank in ranks):
        assert found["digest"] == found["again"] == alone["digest"]
        assert found["format"] == found["said"] == f"torch.{dtype}"
        torch.testing.assert_close(found["logits"], alone["logits"], rtol=0, atol=1e-5 if dtype == "float32" else 0.05)


def test_a_head_of_its_own_is_kept_where_the_config_ties_it(
    ranks: list[dict[str, Any]], places: dict[str, str]
) -> None:
    """transformers 5.23 under ZeRO-3 compared two empty shards, tied them, and computed with the embedding."""
    digest, logits = _as_transformers_loads(places["apart-tied"], LocalRuntime())
    apart = _loaded(places["apart"], "float32", LocalRuntime())
    assert torch.equal(logits, apart["logits"])
    for rank in ranks:
        assert rank["untied"][0] == digest == apart["digest"]
        torch.testing.assert_close(rank["untied"][1], logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lacking", "'model.layers.2.mlp.up_proj.weight'"),
        ("broken", "'model.layers.3.mlp.down_proj.weight' has 1 of them"),
        ("apart-tied", "'lm_head.weight' and 'model.embed_tokens.weight' with different values"),
        ("elsewhere", "points to '../whole/model-00001-of-00002.safetensors'"),
    ],
)
def test_what_is_refused_is_refused_by_all_ranks_in_the_same_words(
    ranks: list[dict[str, Any]], places: dict[str, str], name: str, message: str
) -> None:
    alone = _refusal(places[name], LocalRuntime())
    assert message in alone
    assert [rank[name] for rank in ranks] == [alone, alone]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux where a process's memory comes from")
def test_ranks_of_one_machine_share_the_pages_of_the_weights(
    ranks: list[dict[str, Any]], request: pytest.FixtureRequest, places: dict[str, str]
) -> None:
    """As they lie in the files, or converted by one rank for all, in files that are gone behind the load."""
    if request.node.callspec.params["ranks"] == "zero3":
        assert [rank["mapped"] for rank in ranks] == [[set(), set()]] * 2  # each holds its own half
        return
    plain, converted = ranks[0]["mapped"]
    assert ranks[1]["mapped"] == [plain, converted]
    assert {str(Path(path).parent) for path in plain} == {places["whole"]}
    assert len(converted) == len(plain)
    assert all("elder-weights-" in path and path.endswith("(deleted)") for path in converted)


def test_trials_of_other_number_formats_get_bases_of_their_own(
    ranks: list[dict[str, Any]], places: dict[str, str]
) -> None:
    digests = {dtype: load_base(places["whole"], dtype=dtype).digest for dtype in ("float32", "bfloat16")}
    expected = [(f"torch.{dtype}", digests[dtype]) for dtype in ("float32", "bfloat16", "bfloat16", "float32")]
    assert [rank["trials"] for rank in ranks] == [expected, expected]
