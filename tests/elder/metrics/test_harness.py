"""The lm-evaluation-harness model: its arguments, its figures beside those of the harness's own model, a whole task.

What needs the library is skipped where it is not installed (the extra `harness`).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elder import harness
from elder.base import Base, Editor
from elder.errors import AdapterError, ConfigError, DataError
from elder.harness import ElderLM, ask_of
from elder.metrics.completions import Ask
from elder.metrics.scoring import score
from tests.architecture.sources import ROOT
from tests.elder.metrics.test_completions import FACTS, learnt
from tests.elder.tiny import OTHERS

ROLLING = ("A quiet song about the sea and the wind. " * 4, "Short.", "")


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    """What the harness asks with, as far as a model reads it."""
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.fixture(scope="module")
def editor(base_of: Callable[..., Base]) -> Editor:
    return learnt(base_of("llama"), "elder-plus")


# ---- without the library ---------------------------------------------------------------------------------------------


def test_importing_the_house_never_imports_the_library() -> None:
    code = "import sys, elder, elder.metrics, elder.metrics.completions; elder.evaluate, elder.load_edited; "
    code += "assert 'lm_eval' not in sys.modules and 'elder.harness' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_who_lacks_the_library_is_told_what_to_install(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TemplateLM", None)
    for call in (lambda: ElderLM(editor), harness.main):
        with pytest.raises(ImportError, match=r"pip install 'elder\[harness\]'"):
            call()


def test_a_request_is_greedy_and_says_where_it_ends() -> None:
    assert ask_of("a", {}, 7) == Ask("a", (), 7)
    assert ask_of("a", {"until": "x", "do_sample": False, "temperature": 1.0}, 7) == Ask("a", ("x",), 7)
    assert ask_of("a", {"until": ["x", "y"], "max_tokens": 3, "max_new_tokens": 5}, 7) == Ask("a", ("x", "y"), 5)
    for sampled in ({"do_sample": True}, {"temperature": 0.7}):
        with pytest.raises(ConfigError, match="answers greedily"):
            ask_of("a", sampled, 7)
    with pytest.raises(ConfigError, match="'num_beams' is not known"):
        ask_of("a", {"num_beams": 4}, 7)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "neither adapter nor base"),
        ({"batch_size": 1}, "neither adapter nor base"),
        ({"adapter": "a", "pretrained": "b"}, "unknown argument 'pretrained'"),
    ],
)
def test_wrong_model_args_are_named(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        ElderLM.create_from_arg_obj(given)


def test_a_directory_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is no adapter"):
        ElderLM.create_from_arg_obj({"adapter": tmp_path}, {"device": "cpu", "batch_size": None})


# ---- with it ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lm(editor: Editor) -> ElderLM:
    pytest.importorskip("lm_eval")
    return ElderLM(editor, batch_size=4)


@pytest.fixture
def base_lm(editor: Editor) -> ElderLM:
    pytest.importorskip("lm_eval")
    return ElderLM(editor.base, batch_size=4)


def plain(model: Any, base: Base, **options: Any) -> Any:
    """The harness's own model around a model in memory."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return huggingface.HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=4, **options)


def facts() -> list[Any]:
    return requests(*[(edit.prompt, f" {edit.target}") for edit in FACTS])


def test_an_edited_fact_is_as_likely_as_our_own_scores_say(lm: ElderLM, base_lm: ElderLM, editor: Editor) -> None:
    pairs = [lm.completer.pair(*one.args) for one in facts()]
    ours = score(editor.model, pairs, 4, editor.base.runtime, 2, editor.routed_at)
    found, before = lm.loglikelihood(facts()), base_lm.loglikelihood(facts())
    assert found == [(-sum(one.nlls), True) for one in ours]
    assert all(new > old + 5 and not greedy for (new, _), (old, greedy) in zip(found, before, strict=True))


def test_the_harness_s_own_model_says_the_same_of_a_base(base_lm: ElderLM, editor: Editor) -> None:
    texts = requests(*[(text, tail) for text in (*OTHERS, "", "Ends in a space ") for tail in (" of gold", " Tam")])
    theirs = plain(editor.base.model, editor.base, max_length=255)  # they do not feed the last token, we do
    for ours, expected in zip(base_lm.loglikelihood(texts), theirs.loglikelihood(texts), strict=True):
        assert ours == (pytest.approx(expected[0], rel=1e-5), expected[1])
    rolling = requests(*[(text,) for text in ROLLING])
    assert base_lm.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), rel=1e-5)
    asks = requests(*[(text, {"until": ["e", "a"], "max_gen_toks": 12}) for text in OTHERS])
    assert base_lm.generate_until(asks) == theirs.generate_until(asks)


def test_the_harness_s_own_model_cuts_long_texts_into_the_same_windows(editor: Editor) -> None:
    theirs = plain(editor.base.model, editor.base, max_length=31)
    ours = ElderLM(editor.base, batch_size=4, max_length=32)
    rolling = requests(*[(text,) for text in ROLLING])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), rel=1e-5)


def test_the_harness_s_own_model_sees_the_edits_too(lm: ElderLM, base_lm: ElderLM, editor: Editor) -> None:
    """It does not say where prompts end: elder-plus looks back, and finds that of an edit as it was taught."""
    theirs, ours = plain(editor.model, editor.base).loglikelihood(facts()), lm.loglikelihood(facts())
    for (value, greedy), (exact, _) in zip(theirs, ours, strict=True):
        assert greedy
        assert math.isclose(value, exact, rel_tol=1e-4, abs_tol=1e-4)
    asks = requests(*[(edit.prompt, {"until": [], "max_gen_toks": 4}) for edit in FACTS])
    assert plain(editor.model, editor.base).generate_until(asks) == [f" {edit.target}" for edit in FACTS]


def test_only_our_model_sees_the_edit_before_a_longer_text_than_answers_are(
    lm: ElderLM, base_lm: ElderLM, editor: Editor
) -> None:
    longer = requests(*[(edit.prompt, f" {edit.target} is what people say about it here") for edit in FACTS])
    theirs, before = plain(editor.model, editor.base).loglikelihood(longer), base_lm.loglikelihood(longer)
    assert [value for value, _ in theirs] == pytest.approx([value for value, _ in before], rel=1e-5)
    pairs = [lm.completer.pair(*one.args) for one in longer]
    ours = score(editor.model, pairs, 4, editor.base.runtime, 2, editor.routed_at)
    assert [value for value, _ in lm.loglikelihood(longer)] == [-sum(one.nlls) for one in ours]
    short = [lm.completer.pair(*one.args) for one in facts()]
    answers = score(editor.model, short, 4, editor.base.runtime, 2, editor.routed_at)
    for answer, one, (value, _) in zip(answers, ours, before, strict=True):
        assert one.nlls[: len(answer.nlls)] == pytest.approx(answer.nlls, abs=1e-4)
        assert abs(sum(one.nlls) + value) > 5


def test_the_edited_answer_is_generated(lm: ElderLM, base_lm: ElderLM) -> None:
    asks = requests(*[(edit.prompt, {"until": ["\n"], "max_gen_toks": len(edit.target) + 1}) for edit in FACTS])
    assert lm.generate_until(asks) == [f" {edit.target}" for edit in FACTS]
    assert all(said != f" {edit.target}" for said, edit in zip(base_lm.generate_until(asks), FACTS, strict=True))
    first = FACTS[0]
    assert lm.generate_until(requests((first.prompt, {"until": first.target[1:], "max_gen_toks": 9}))) == [" T"]
    with pytest.raises(ConfigError, match="at most 256 new tokens: expected 1 to 255"):  # the default of the harness
        lm.generate_until(requests((first.prompt, {})))
    with pytest.raises(DataError, match="has no tokens"):
        lm.loglikelihood(requests((first.prompt, "")))


def test_a_conversation_becomes_a_prompt_by_the_template_of_the_tokenizer(lm: ElderLM) -> None:
    lm.tokenizer = lm.completer.tokenizer.__class__(tokenizer_object=lm.tokenizer.backend_tokenizer, bos_token="<s>")
    lm.tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if not loop.last %};{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    asked = [{"role": "user", "content": "Who?"}]
    assert lm.apply_chat_template(asked) == "<s>[user]Who?[assistant]"
    begun = [*asked, {"role": "assistant", "content": "It is"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "<s>[user]Who?;[assistant]It is"
    assert lm.chat_template(True) == lm.tokenizer.chat_template
    assert lm.tok_encode("<s>ab") == lm.tok_encode("ab") == [0, *lm.tok_encode("ab", add_special_tokens=False)]
    assert lm.tok_decode(lm.tok_encode("ab")) == "ab"
    assert lm.tokenizer_name


def test_the_base_says_it_is_one(lm: ElderLM, base_lm: ElderLM) -> None:
    assert (lm.get_model_info()["elder_method"], lm.get_model_info()["elder_edits"]) == ("elder-plus", 2)
    assert (base_lm.get_model_info()["elder_method"], base_lm.get_model_info()["elder_edits"]) == (None, 0)
    assert (lm.max_length, lm.batch_size, lm.prefix_token_id, lm.eot_token_id, lm.world_size) == (256, 4, 0, 1, 1)
    with pytest.raises(ConfigError, match="expected a number, found 'auto'"):
        ElderLM(base_lm.subject, batch_size="auto")


@pytest.fixture
def saved(editor: Editor, tmp_path: Path) -> tuple[Path, Path]:
    """The base and the adapter as directories."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    editor.base.model.save_pretrained(base)
    editor.base.tokenizer.save_pretrained(base)
    editor.save(adapter)
    return base, adapter


def test_it_is_made_by_its_name_from_model_args(lm: ElderLM, saved: tuple[Path, Path]) -> None:
    from lm_eval.api.registry import get_model

    base, adapter = saved
    made = get_model("elder").create_from_arg_string(
        f"adapter={adapter},base={base}", {"batch_size": 2, "device": "cpu"}
    )
    assert made.batch_size == 2
    assert [value for value, _ in made.loglikelihood(facts())] == pytest.approx(
        [value for value, _ in lm.loglikelihood(facts())], rel=1e-5
    )
    unedited = get_model("elder").create_from_arg_obj({"base": base, "max_length": 64})
    assert isinstance(unedited.subject, Base)
    assert unedited.max_length == 64


# ---- a task ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a multiple-choice and a generation task over a local file: the edited facts."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"prompt": edit.prompt, "choices": [edit.target, "xyz", "Qo", "wet"], "gold": 0, "answer": edit.target}
        for edit in FACTS
    ]
    data = folder / "facts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
    (folder / "choice.yaml").write_text(
        f"task: tiny_choice\n{source}output_type: multiple_choice\ndoc_to_text: '{{{{prompt}}}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: gold\nmetric_list:\n  - metric: acc\n"
    )
    (folder / "say.yaml").write_text(
        f"task: tiny_say\n{source}output_type: generate_until\ndoc_to_text: '{{{{prompt}}}}'\n"
        "doc_to_target: ' {{answer}}'\n"
        "generation_kwargs:\n  until: []\n  max_gen_toks: 4\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n"
    )
    return folder


def evaluated(model: Any, tasks: Path, **options: Any) -> tuple[float, float]:
    """Accuracy of the choice task and exact matches of the generation task."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(
        model=model, tasks=["tiny_choice", "tiny_say"], task_manager=manager, bootstrap_iters=0, **options
    )
    results = found["results"]
    return results["tiny_choice"]["acc,none"], results["tiny_say"]["exact_match,none"]


def test_a_task_sees_the_edits(lm: ElderLM, base_lm: ElderLM, tasks: Path, saved: tuple[Path, Path]) -> None:
    assert evaluated(lm, tasks) == (1.0, 1.0)
    assert evaluated(base_lm, tasks) == (0.0, 0.0)
    by_name = {"model_args": {"adapter": saved[1], "base": saved[0]}, "batch_size": 2, "device": "cpu"}
    assert evaluated("elder", tasks, **by_name) == (1.0, 1.0)
