"""Models that PEFT adapted: an adapter directory, a PeftModel, what is inside of it; all merged into a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from elder.base import Base
from elder.editors.make import make_editor
from elder.errors import ModelError
from elder.models.beforehand import check_files
from elder.models.load import load_base, load_config, load_tokenizer, wrap_base
from elder.models.peft_adapters import is_adapted
from elder.runtime import LocalRuntime
from elder.state import state_digest, weights_digest
from tests.elder.tiny import EDITS, METHODS, OPTIONS, OTHERS, logits_of, make_model, make_tokenizer, padded

peft = pytest.importorskip("peft")
Q, DOWN = "q_proj", "down_proj"
KINDS: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=[Q, DOWN], init_lora_weights=False),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=[Q], init_lora_weights=False, use_dora=True),
    "lora-and-trained-head": lambda: peft.LoraConfig(
        r=2, target_modules=[Q], init_lora_weights=False, modules_to_save=["lm_head"]
    ),
    "lora-on-head": lambda: peft.LoraConfig(r=2, target_modules=[Q, "lm_head"], init_lora_weights=False),
    "ia3": lambda: peft.IA3Config(target_modules=[Q, DOWN], feedforward_modules=[DOWN], init_ia3_weights=False),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=[Q], init_weights=False),
}


def tune(kind: str, model: Any = None) -> Any:
    """A PeftModel whose adapter changes the model's answers."""
    config = KINDS[kind]()
    config.task_type = "CAUSAL_LM"
    model = make_model("llama") if model is None else model
    torch.manual_seed(5)
    tuned = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "ia3" in name or "modules_to_save" in name:  # both begin as what they stand for
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return tuned


def inputs_of(tokenizer: Any) -> dict[str, Tensor]:
    return padded(Base(make_model("llama"), tokenizer, "x", LocalRuntime()), [EDITS[0].prompt, *OTHERS[:3]])


def exact() -> Any:
    """A model in double precision: merging changes the order of the sums, which shows in 1e-5 of single precision."""
    return make_model("llama", torch.float64)


@pytest.mark.parametrize("inner", [False, True], ids=["PeftModel", "inner"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_computes_what_the_adapted_model_computes(kind: str, inner: bool) -> None:
    tokenizer = make_tokenizer()
    tuned, inputs = tune(kind, exact()), inputs_of(tokenizer)
    adapted = logits_of(tuned, inputs)
    assert (adapted - logits_of(exact(), inputs)).abs().max() > 0.1
    base = wrap_base(tuned.get_base_model() if inner else tuned, tokenizer, "tuned")
    assert type(base.model) is LlamaForCausalLM
    assert not is_adapted(base.model)
    torch.testing.assert_close(logits_of(base.model, inputs), adapted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inner", [False, True], ids=["PeftModel", "inner"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_model_is_edited_and_left_as_it_is(kind: str, inner: bool) -> None:
    tokenizer = make_tokenizer()
    tuned, inputs = tune(kind), inputs_of(tokenizer)
    tuned.get_base_model().model.norm.weight.requires_grad_(True)  # trained beside the adapter
    adapted, before = logits_of(tuned, inputs), state_digest(tuned.state_dict())
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    base = wrap_base(tuned.get_base_model() if inner else tuned, tokenizer, "tuned")
    editor = make_editor("elder-plus", base, **OPTIONS["elder-plus"])
    editor.edit(EDITS[:1])
    assert not torch.equal(logits_of(editor.model, inputs)[0], logits_of(base.model, inputs)[0])
    assert torch.equal(logits_of(editor.model, inputs)[1:], logits_of(base.model, inputs)[1:])
    assert state_digest(tuned.state_dict()) == before
    assert torch.equal(logits_of(tuned, inputs), adapted)
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == trained


def test_weights_that_no_adapter_touches_are_shared() -> None:
    tuned = tune("lora")
    base = wrap_base(tuned, make_tokenizer(), "tuned")
    ours, theirs = base.model.model.layers[0], tuned.get_base_model().model.layers[0]
    assert ours.mlp.up_proj.weight is theirs.mlp.up_proj.weight
    assert ours.mlp.down_proj.weight is not theirs.mlp.down_proj.base_layer.weight


def test_an_adapter_on_a_tied_head_does_not_change_the_embedding() -> None:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.25, tie_word_embeddings=True,
    )  # fmt: skip
    tuned, tokenizer = tune("lora-on-head", LlamaForCausalLM(shape).double().eval()), make_tokenizer()
    inputs = inputs_of(tokenizer)
    adapted = logits_of(tuned, inputs)
    base = wrap_base(tuned, tokenizer, "tuned")
    torch.testing.assert_close(logits_of(base.model, inputs), adapted, rtol=0, atol=1e-10)
    assert torch.equal(logits_of(tuned, inputs), adapted)
    assert not base.model.config.tie_word_embeddings


def test_adapters_that_are_switched_off_stay_off() -> None:
    tuned, tokenizer = tune("lora"), make_tokenizer()
    inputs = inputs_of(tokenizer)
    with tuned.disable_adapter():
        base = wrap_base(tuned, tokenizer, "tuned")
    assert torch.equal(logits_of(base.model, inputs), logits_of(make_model("llama"), inputs))
    tuned.merge_adapter()
    merged = logits_of(tuned, inputs)
    assert torch.equal(logits_of(wrap_base(tuned, tokenizer, "tuned").model, inputs), merged)


def test_transformers_own_adapters_are_seen_too() -> None:
    model, tokenizer = exact(), make_tokenizer()
    torch.manual_seed(5)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=[Q], init_lora_weights=False))
    inputs = inputs_of(tokenizer)
    base = wrap_base(model, tokenizer, "tuned")
    assert not is_adapted(base.model)
    torch.testing.assert_close(logits_of(base.model, inputs), logits_of(model, inputs), rtol=0, atol=1e-10)


def test_adapters_that_are_no_change_of_weights_are_refused_by_name() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    tuned = peft.get_peft_model(make_model("llama"), config)
    with pytest.raises(ModelError, match=r"PEFT adapter adds to the prompt.*merge_and_unload does not apply"):
        wrap_base(tuned, make_tokenizer(), "tuned")


def test_a_sharded_peft_model_is_refused_by_name() -> None:
    runtime = LocalRuntime()
    runtime.sharded = True
    with pytest.raises(ModelError, match=r"PEFT.*merge_and_unload\(\)\.save_pretrained"):
        wrap_base(tune("lora"), make_tokenizer(), "tuned", runtime)


# ---- directories -----------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A base model, and an adapter that was trained on it."""
    base, lora = tmp_path / "base", tmp_path / "lora"
    make_model("llama").save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    tuned = tune("lora")
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(lora)
    return base, lora


def change(lora: Path, **values: Any) -> None:
    written = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**written, **values}))


def refusal(place: Path, said: str) -> None:
    """Loading refuses it, and so does the look at the files before a run."""
    for look in (load_base, check_files):
        with pytest.raises(ModelError, match=said):
            look(str(place))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_directory_is_its_base_with_the_adapter(places: tuple[Path, Path], dtype: str) -> None:
    base = load_base(str(places[1]), dtype=dtype, device="cpu")
    assert base.source == str(places[1])
    assert {p.dtype for p in base.model.parameters()} == {getattr(torch, dtype)}
    in_memory = wrap_base(tune("lora"), make_tokenizer(), "tuned")
    if dtype == "float32":
        assert base.digest == in_memory.digest
    for ours, theirs in zip(base.model.parameters(), in_memory.model.parameters(), strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=2 * torch.finfo(ours.dtype).eps)
    assert base.digest == load_base(str(places[1]), dtype=dtype, device="cpu").digest
    assert base.digest != load_base(str(places[0]), dtype=dtype, device="cpu").digest


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_directory_is_edited_and_its_edits_are_loaded(
    places: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    from elder.adapter import load_edited
    from elder.adapter_files import save_adapter

    base = load_base(str(places[1]), device="cpu")
    editor = make_editor(method, base, **OPTIONS[method])
    editor.edit(EDITS[:2])
    save_adapter(tmp_path / "edits", editor)
    again = load_edited(tmp_path / "edits", device="cpu")
    inputs = padded(base, [EDITS[0].prompt, OTHERS[0]])
    assert torch.equal(logits_of(again.model, inputs), logits_of(editor.model, inputs))


def test_the_rest_of_an_adapter_directory_comes_from_its_base(places: tuple[Path, Path]) -> None:
    assert load_config(str(places[1])).num_hidden_layers == 4
    assert load_tokenizer(str(places[1]))("The").input_ids == make_tokenizer()("The").input_ids
    tokenizer = make_tokenizer(bos=False)
    tokenizer.save_pretrained(places[1])  # one of its own counts
    assert load_base(str(places[1]), device="cpu").tokenizer("The").input_ids == tokenizer("The").input_ids


def test_a_damaged_base_below_an_adapter_is_refused(places: tuple[Path, Path]) -> None:
    file = places[0] / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, {"format": "pt"})
    refusal(places[1], r"'model\.norm\.weight'")


def test_an_adapter_that_lacks_tensors_or_holds_no_numbers_is_refused(places: tuple[Path, Path]) -> None:
    file = places[1] / "adapter_model.safetensors"
    state = load_file(file)
    name = next(key for key in state if "layers.2" in key and "lora_B" in key)
    save_file({key: value for key, value in state.items() if key != name}, file, {"format": "pt"})
    refusal(places[1], r"PEFT adapter .* lacks tensors: .*layers\.2")
    state[name][0, 0] = torch.nan
    save_file(state, file, {"format": "pt"})
    refusal(places[1], r"PEFT adapter.*(cannot be merged: NaNs|no numbers .*layers\.2)")
    file.unlink()
    refusal(places[1], r"PEFT adapter .* (cannot be loaded|has no weights)")


def test_an_adapter_without_a_base_is_refused(places: tuple[Path, Path]) -> None:
    change(places[1], base_model_name_or_path=None)
    refusal(places[1], r"adapter_config\.json does not name its base model")
    change(places[1], base_model_name_or_path="/nowhere/at/all")
    refusal(places[1], "no directory '/nowhere/at/all'")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "NOBODY"}, "NOBODY"),
        ({"r": -3}, "positive integer"),
        ({"r": 3}, "size mismatch for .*lora_A"),
        ({"target_modules": ["nowhere"]}, "not found in the base model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(places: tuple[Path, Path], values: dict[str, Any], said: str) -> None:
    change(places[1], **values)
    refusal(places[1], said)


@pytest.mark.parametrize("depth", [0, 1])
def test_an_adapter_on_an_adapter_is_refused(places: tuple[Path, Path], depth: int) -> None:
    above = shutil.copytree(places[1], places[1].parent / "above") if depth else places[1]
    change(above, base_model_name_or_path=str(places[1]))
    for look in (load_base, check_files, load_config, load_tokenizer):
        with pytest.raises(ModelError, match="is an adapter, too"):
            look(str(above))


def test_pickled_adapters_run_no_code(places: tuple[Path, Path], tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was_run",)

    (places[1] / "adapter_model.safetensors").unlink()
    torch.save({"x": Touch()}, places[1] / "adapter_model.bin")
    refusal(places[1], "PEFT adapter .* cannot be loaded")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("kind", [*KINDS, "pissa"])
def test_what_would_load_is_not_refused_before(tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base"
    make_model("llama").save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    pissa = peft.LoraConfig(r=2, target_modules=[Q], init_lora_weights="pissa", task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(make_model("llama"), pissa) if kind == "pissa" else tune(kind)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(tmp_path / "tuned")
    check_files(str(tmp_path / "tuned"))
    assert load_base(str(tmp_path / "tuned"), device="cpu").source == str(tmp_path / "tuned")


def test_adapters_of_prompts_are_refused_before_a_run(places: tuple[Path, Path]) -> None:
    prompts = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(make_model("llama"), prompts)
    tuned.peft_config["default"].base_model_name_or_path = str(places[0])
    shutil.rmtree(places[1])
    tuned.save_pretrained(places[1])
    refusal(places[1], "adds to the prompt")


def test_a_whole_model_with_an_adapter_beside_it_is_refused(places: tuple[Path, Path]) -> None:
    """transformers would load both; which was meant, nobody can say."""
    for file in places[1].glob("adapter_*"):
        shutil.copy(file, places[0])
    refusal(places[0], r"a whole model and a PEFT adapter \(adapter_config\.json\)")


def test_without_peft_the_refusal_says_what_to_do(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("elder.models.peft_adapters.import_module", absent)
    refusal(places[1], r"pip install 'elder\[peft\]'.*merge_and_unload\(\)")
    tuned = tune("lora")
    assert weights_digest(wrap_base(tuned, make_tokenizer(), "here").model, LocalRuntime())  # memory needs no library


def test_an_ordinary_model_is_no_adapted_one() -> None:
    model = make_model("llama")
    assert not is_adapted(model)
    assert wrap_base(model, make_tokenizer(), "here").model is model
    assert is_adapted(nn.Sequential(tune("lora")))
