"""Loading that cannot lie: a checkpoint is the model that its config describes, or it is refused by name."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from elder.base import Base
from elder.errors import ModelError
from elder.models.beforehand import check_files
from elder.models.load import load_base, wrap_base
from elder.runtime import LocalRuntime
from elder.state import weights_digest
from tests.elder.models.test_anatomy import ARCHITECTURES, COMMON, MODERN, build
from tests.elder.tiny import DEPTH, ThreadRuntime, logits_of, make_model, make_tokenizer, on_ranks, padded

INDEX = "model.safetensors.index.json"
DOWN = "model.layers.2.mlp.down_proj.weight"
State = dict[str, Tensor]


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """A fresh directory with a tiny Llama; its tensors and config may be changed."""

    def make(
        change: Callable[[State], Any] = lambda state: None, shard: str = "5GB", name: str = "model", **config: Any
    ) -> Path:
        path = tmp_path / name
        make_model("llama").save_pretrained(path, max_shard_size=shard)
        make_tokenizer().save_pretrained(path)
        if shard == "5GB":
            state = load_file(path / "model.safetensors")
            change(state)
            save_file(state, path / "model.safetensors", {"format": "pt"})
        set_config(path, **config)
        return path

    return make


def set_config(path: Path, **values: Any) -> None:
    written = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**written, **values}))


def refusal(path: Path, **options: Any) -> str:
    """What `load_base` says against a directory; `check_files` says it before a run."""
    with pytest.raises(ModelError) as caught:
        load_base(str(path), device="cpu", **options)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelError) as before:
        check_files(str(path), **options)
    assert str(before.value) == str(caught.value)
    return str(caught.value)


def without(*names: str) -> Callable[[State], Any]:
    return lambda state: [state.pop(name) for name in names]


def holding(name: str, value: Tensor) -> Callable[[State], Any]:
    return lambda state: state.update({name: value})


# ---- what the headers say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DOWN, "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"])
def test_a_missing_tensor_is_named(place: Callable[..., Path], name: str) -> None:
    said = refusal(place(without(name)))
    assert "lacks 1 tensors" in said
    assert f"'{name}'" in said


def test_the_headers_are_judged_before_the_weights_are_read(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(without(DOWN))
    monkeypatch.setattr(LocalRuntime, "loading", lambda *_: pytest.fail("the weights are read"))
    assert DOWN in refusal(path)


def test_more_blocks_in_the_config_than_in_the_files_are_counted(place: Callable[..., Path]) -> None:
    said = refusal(place(num_hidden_layers=DEPTH + 2))
    assert f"config.json asks for {DEPTH + 2} blocks, the files hold {DEPTH}" in said
    assert f"'model.layers.{DEPTH}." in said


def test_more_blocks_in_the_files_than_in_the_config_are_no_smaller_model(place: Callable[..., Path]) -> None:
    said = refusal(place(num_hidden_layers=DEPTH - 1))
    assert f"config.json asks for {DEPTH - 1} blocks, the files hold {DEPTH}" in said
    assert f"'model.layers.{DEPTH - 1}." in said


def test_a_bias_that_the_config_does_not_know_is_named(place: Callable[..., Path]) -> None:
    said = refusal(place(holding("model.layers.1.self_attn.q_proj.bias", torch.ones(32))))
    assert "no place" in said
    assert "'model.layers.1.self_attn.q_proj.bias'" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.1.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("model.layers.1.self_attn.bias", torch.ones(1, 1, 8, 8)),
        ("model.layers.1.self_attn.masked_bias", torch.tensor(-1e4)),
    ],
)
def test_masks_and_tables_of_older_releases_change_nothing(
    place: Callable[..., Path], base_of: Callable[..., Base], name: str, value: Tensor
) -> None:
    assert load_base(str(place(holding(name, value))), device="cpu").digest == base_of("llama").digest


def test_parts_of_another_task_are_left_out_aloud(place: Callable[..., Path], base_of: Callable[..., Base]) -> None:
    path = place(holding("value_head.weight", torch.ones(1, 32)))
    with pytest.warns(UserWarning, match="left out: 'value_head.weight'"):
        assert load_base(str(path), device="cpu").digest == base_of("llama").digest


def test_another_shape_is_named_with_both(place: Callable[..., Path]) -> None:
    said = refusal(place(holding(DOWN, torch.ones(32, 47))))
    assert f"'{DOWN}' has shape (32, 47) in the file, config.json asks for (32, 48)" in said


@pytest.mark.parametrize("target", ["../model.safetensors", "/etc/model.safetensors", "a/../../b", "C:\\w.safetensors"])
def test_an_index_that_leads_out_of_the_directory_is_refused(place: Callable[..., Path], target: str) -> None:
    path = place(shard="60KB")
    index = json.loads((path / INDEX).read_text())
    shutil.copy(path / index["weight_map"][DOWN], path.parent / "model.safetensors")  # what it leads to is there
    index["weight_map"][DOWN] = target
    (path / INDEX).write_text(json.dumps(index))
    said = refusal(path)
    assert f"'{DOWN}'" in said
    assert f"points to '{target}', outside of the model's directory" in said


def test_a_config_that_names_a_file_elsewhere_is_refused(place: Callable[..., Path]) -> None:
    path = place()
    shutil.move(path / "model.safetensors", path.parent / "weights.safetensors")
    shutil.copy(path.parent / "weights.safetensors", path / "other.safetensors")
    (path / "model.safetensors").symlink_to(path / "other.safetensors")
    set_config(path, transformers_weights="../weights.safetensors")
    assert "points to '../weights.safetensors'" in refusal(path)


def test_links_are_followed_as_the_hubs_cache_needs_it(
    place: Callable[..., Path], base_of: Callable[..., Base]
) -> None:
    path = place()
    shutil.move(path / "model.safetensors", path.parent / "blob")
    (path / "model.safetensors").symlink_to("../blob")
    assert load_base(str(path), device="cpu").digest == base_of("llama").digest


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": "x"}'])
def test_a_damaged_index_is_refused_in_words(place: Callable[..., Path], text: str) -> None:
    path = place(shard="60KB")
    (path / INDEX).write_text(text)
    assert f"{INDEX} is no index" in refusal(path)


def test_a_tensor_in_two_shards_is_refused(place: Callable[..., Path]) -> None:
    path = place(shard="60KB")
    home = json.loads((path / INDEX).read_text())["weight_map"][DOWN]
    other = next(file for file in sorted(path.glob("model-*.safetensors")) if file.name != home)
    save_file({**load_file(other), DOWN: torch.zeros(32, 48)}, other, {"format": "pt"})
    said = refusal(path)
    assert f"holds '{DOWN}' twice" in said
    assert home in said


def test_pickled_weights_are_judged_alike(place: Callable[..., Path], base_of: Callable[..., Base]) -> None:
    path = place()
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    assert load_base(str(path), device="cpu").digest == base_of("llama").digest
    torch.save({name: value for name, value in state.items() if name != DOWN}, path / "pytorch_model.bin")
    assert f"'{DOWN}'" in refusal(path)
    (path / "pytorch_model.bin").write_bytes(b"nothing")
    assert "cannot be loaded" in refusal(path)


def test_without_accelerate_the_report_of_the_load_itself_is_judged(
    place: Callable[..., Path], base_of: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elder.models.rehearsal.is_accelerate_available", lambda: False)
    assert load_base(str(place(name="whole")), device="cpu").digest == base_of("llama").digest
    path = place(without(DOWN))
    with pytest.raises(ModelError, match=f"'{DOWN}'"):
        load_base(str(path), device="cpu")
    check_files(str(path))  # which cannot tell then


def test_a_hub_model_is_judged_alike_and_its_commit_is_known(
    place: Callable[..., Path], base_of: Callable[..., Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as the hub's client lays it out, whose files are links, and no network."""
    commit, repository = "0123456789" * 4, tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in place(shard="60KB").iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_files("org/tiny")
    base = load_base("org/tiny", device="cpu")
    assert (base.source, base.revision) == ("org/tiny", commit)
    assert base.digest == base_of("llama").digest
    index = json.loads((snapshot / INDEX).read_text())
    shard = snapshot / max(index["weight_map"].values())
    shard = shard.rename(shard.with_suffix(".incomplete"))
    check_files("org/tiny")  # a download that was cut off is resumed
    shard.rename(shard.with_suffix(".safetensors"))
    index["weight_map"][DOWN] = "../../../x.safetensors"
    (repository / "blobs" / INDEX).write_text(json.dumps(index))
    for load in (load_base, check_files):
        with pytest.raises(ModelError, match=r"'org/tiny': .*points to '\.\./\.\./\.\./x\.safetensors'"):
            load("org/tiny")


# ---- what the values say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [DOWN, "model.norm.weight"])
def test_values_that_are_no_numbers_are_named_and_counted(place: Callable[..., Path], value: float, name: str) -> None:
    def spoil(state: State) -> None:
        state[name].view(-1)[-2:] = value

    said = refusal(place(spoil))
    assert f"'{name}' has 2 of them" in said
    assert "damaged" in said


def test_values_that_the_number_format_cannot_hold_are_no_damage(place: Callable[..., Path]) -> None:
    def enlarge(state: State) -> None:
        state[DOWN][0, 0] = 1e6

    path = place(enlarge)
    assert torch.isfinite(load_base(str(path), dtype="bfloat16", device="cpu").model.lm_head.weight).all()
    said = refusal(path, dtype="float16")
    assert f"'{DOWN}' has 1 of them" in said
    assert "use model.dtype=bfloat16" in said


def test_a_head_of_its_own_under_a_config_that_ties_it_is_refused(place: Callable[..., Path]) -> None:
    said = refusal(place(tie_word_embeddings=True))
    assert "'lm_head.weight' and 'model.embed_tokens.weight' with different values" in said
    assert "tie_word_embeddings" in said


@pytest.mark.parametrize("kept", [("lm_head.weight",), ("model.embed_tokens.weight",), ()])
def test_what_is_tied_may_be_held_once_or_twice(
    place: Callable[..., Path], base_of: Callable[..., Base], kept: tuple[str, ...]
) -> None:
    """The digests are equal: a tied head is the embedding, under whichever name the file holds it."""

    def tie(state: State) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        if kept:
            state.pop(*{"lm_head.weight", "model.embed_tokens.weight"}.difference(kept))

    loaded = load_base(str(place(tie, tie_word_embeddings=True)), device="cpu")
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert torch.equal(loaded.model.lm_head.weight, base_of("llama").model.model.embed_tokens.weight)
    both = without("lm_head.weight", "model.embed_tokens.weight")
    assert "'model.embed_tokens.weight'" in refusal(place(both, name="none", tie_word_embeddings=True))


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_whole_models_of_many_families_load_as_transformers_loads_them(tmp_path: Path, name: str, dtype: str) -> None:
    if name == "mixtral":  # its experts are merged while they are read
        options = {**COMMON, **MODERN, "intermediate_size": 48, "num_local_experts": 2}
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING["mixtral"](**options))
    else:
        model = build(name)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    loaded = load_base(str(tmp_path), dtype=dtype, device="cpu")
    assert loaded.digest == weights_digest(plain, LocalRuntime())
    assert {n: p.dtype for n, p in loaded.model.named_parameters()} == {n: p.dtype for n, p in plain.named_parameters()}


# ---- several ranks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of these tests are threads, and transformers' loading changes settings of the whole process."""
    import elder.models.load as home

    lock = threading.RLock()

    def alone(inner: Callable[..., Any], *given: Any, **options: Any) -> Any:
        with lock:
            return inner(*given, **options)

    for name in ("_from_pretrained", "rehearse"):
        monkeypatch.setattr(home, name, partial(alone, getattr(home, name)))


@pytest.mark.usefixtures("_one_at_a_time")
def test_one_rank_that_finds_something_stops_all(place: Callable[..., Path]) -> None:
    """On one of two nodes the directory is damaged."""
    whole, damaged = place(name="whole"), place(without(DOWN), name="damaged")

    def program(runtime: ThreadRuntime) -> str:
        with pytest.raises(ModelError) as caught:
            load_base(str((whole, damaged)[runtime.rank]), runtime=runtime)
        return str(caught.value)

    first, second = on_ranks(program)
    assert first == second
    assert f"'{DOWN}'" in first


@pytest.mark.usefixtures("_one_at_a_time")
def test_ranks_that_read_different_weights_do_not_begin(place: Callable[..., Path]) -> None:
    """The same path on two nodes, another training of the same model behind it."""

    def nudge(state: State) -> None:
        state[DOWN][3, 3] += 1e-3

    one, other = place(name="one"), place(nudge, name="other")

    def program(runtime: ThreadRuntime) -> str:
        with pytest.raises(ModelError) as caught:
            load_base(str((one, other)[runtime.rank]), runtime=runtime)
        return str(caught.value)

    for said in on_ranks(program):
        assert f"worker 1 read other values than worker 0 in 1 tensors: '{DOWN}'" in said


@pytest.mark.usefixtures("_one_at_a_time")
def test_the_digest_is_computed_by_one_rank(place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    import elder.state as home

    original = home._hash_tensor
    monkeypatch.setattr(home, "_hash_tensor", lambda h, name, t: (hashed.append(name), original(h, name, t)))
    path = place()
    digests = on_ranks(lambda runtime: load_base(str(path), runtime=runtime).digest)
    names = [name for name, _ in make_model("llama").named_parameters()]
    assert sorted(hashed) == sorted(names)
    assert digests == [load_base(str(path), device="cpu").digest] * 2


# ---- beside the weights ----------------------------------------------------------------------------------------------


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused_with_numbers(place: Callable[..., Path]) -> None:
    path = place()
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(path)
    said = refusal(path)
    assert "has 2 tokens" in said
    assert "go up to 260 ('<newer>'), the embedding has 259 rows (0 to 258)" in said
    with pytest.raises(ModelError, match="259 rows"):
        wrap_base(make_model("llama"), tokenizer, "here")


def test_the_users_tokenizer_is_left_as_it_is() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    base = wrap_base(make_model("llama"), tokenizer, "here")
    assert tokenizer.pad_token is None
    assert base.tokenizer.pad_token == "</s>"
    assert base.tokenizer("The river").input_ids == tokenizer("The river").input_ids
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        wrap_base(make_model("llama"), tokenizer, "here")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_generation_config_that_cannot_be_read_is_not_passed_over(place: Callable[..., Path], text: str) -> None:
    path = place()
    (path / "generation_config.json").write_text(text)
    assert "generation_config.json" in refusal(path)
    (path / "generation_config.json").unlink()
    load_base(str(path), device="cpu")


def test_default_end_tokens_of_a_config_are_no_error(tmp_path: Path) -> None:
    """GPT-2's config says 50,256 by itself, also for a model of 259 tokens."""
    AutoModelForCausalLM.from_config(GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=2)).save_pretrained(
        tmp_path
    )
    make_tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device="cpu")
    assert torch.isfinite(logits_of(base.model, padded(base, ["The"]))).all()
