"""Configs: strict, documented, all mistakes at once, and a digest that knows what matters."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from elder.errors import ConfigError
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.reference import config_reference
from elder.pipelines.config.run import RunConfig, diff, flatten, fresh_run_id, load_config, parse_config

ROOT = Path(__file__).resolve().parents[3]


def problems_of(text: str, *overrides: str, tmp_path: Path) -> list[str]:
    """What loading a config complains about."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    return [problem.replace(str(path), "c.yaml") for problem in caught.value.problems]


def config_of(text: str = "", *overrides: str) -> RunConfig:
    """A config from YAML text, of the faithful method unless it says otherwise."""
    from elder.pipelines.config.files import parse_document, with_overrides
    from elder.pipelines.config.run import resolve

    document = parse_document(text, "c.yaml")
    values = {"editor": {"method": "elder"}, **document.values}
    return resolve(with_overrides(replace(document, values=values), overrides))


def test_every_shipped_config_loads() -> None:
    files = sorted((ROOT / "configs").rglob("*.y*ml"))
    assert len(files) >= 7
    assert {path.resolve() for path in packaged_configs().values()} == {path.resolve() for path in files}
    for name, path in packaged_configs().items():
        if name.startswith(("tune/", "studies/", "train/", "compare_")):
            continue  # checked by the tests of their own kinds
        config = load_config(str(path))
        assert config == load_config(name, [f"run_id={config.run_id}"])
        assert parse_config(config.dump_yaml()) == config
        config.editor_options()


def test_paper_configs_hold_the_papers_settings() -> None:
    for name in ("llama2_7b_zsre", "llama2_7b_counterfact", "gpt2xl_zsre", "gpt2xl_counterfact"):
        config = load_config(f"paper/elder_{name}")
        options = config.editor_options()
        assert config.editor.method == "elder"
        assert (options.experts, options.top_k, options.rank, options.epsilon) == (4, 2, 8, 12)
        assert (options.lr, options.steps, options.guide_weight, options.batch_size) == (1e-4, 50, 1e-2, 4)
        llama = name.startswith("llama")
        assert options.layers == ((21, 22, 23, 24, 25, 26) if llama else (36, 37, 38, 39, 40))
        assert (options.query_layer, options.target) == ((20, "mlp_out") if llama else (35, "mlp_in"))
        assert config.model.source == ("meta-llama/Llama-2-7b-hf" if llama else "openai-community/gpt2-xl")
        assert config.data.edits == 1000


def test_overrides_reach_every_kind_of_key() -> None:
    config = config_of(
        "", "editor.lr=2e-5", "editor.layers=[1, 2]", "tracking.mlflow=null", "cluster.gpus_per_worker=1"
    )
    assert config.editor.options["lr"] == 2e-5
    assert config.editor_options().layers == (1, 2)
    assert config.tracking.mlflow is None
    assert config.cluster.gpus_per_worker == 1.0
    assert isinstance(config.cluster.gpus_per_worker, float)
    assert config_of("", "run_id=0042").run_id == "0042"  # not the number 34 that YAML reads
    assert config_of("", "gates.reliability.forced=0.5").gates == {"reliability.forced": 0.5}
    assert config_of("", "evaluation.protocols=forced").evaluation.protocols == ("forced",)


def test_scientific_numbers_are_numbers_in_files_and_on_the_command_line() -> None:
    assert config_of("editor: {method: elder, lr: 1e-4}").editor.options["lr"] == 1e-4
    assert config_of("editor: {method: elder, lr: '1e-4'}").editor.options["lr"] == 1e-4
    assert config_of("stream: {stage_size: 1e2}").stream.stage_size == 100


def test_all_mistakes_are_named_at_once_with_file_line_and_key(tmp_path: Path) -> None:
    text = """
name: 20240101
stream: {stage_size: 10, batch_size: 20}
editor:
  method: elder
  rnk: 3
clustr: {workers: 2}
evaluation: {protocols: [generate]}
gates: {reliability: {forced: 0.9}, foo: 1}
model: 7
data: {order: shufled, edits: 0}
"""
    found = problems_of(text, "seed=-1", "tracking.store=", "cluster.workers=two", tmp_path=tmp_path)
    expected = [
        ("c.yaml:2: name", "expected text"),
        ("c.yaml:3: stream.batch_size", "larger than stream.stage_size"),
        ("c.yaml:6: editor.rnk", "did you mean 'rank'"),
        ("c.yaml:7: clustr", "did you mean 'cluster'"),
        ("c.yaml:9: gates.reliability.forced", "not among evaluation.protocols"),
        ("c.yaml:9: gates.foo", "no such gate"),
        ("c.yaml:10: model", "expected a section"),
        ("c.yaml:11: data.order", "did you mean 'shuffled'"),
        ("c.yaml:11: data.edits", "too small"),
        ("command line: seed", "too small"),
        ("command line: tracking.store", "expected text"),
        ("command line: cluster.workers", "expected a whole number"),
    ]
    for place, reason in expected:
        assert any(line.startswith(place) and reason in line for line in found), (place, reason, found)
    assert len(found) == len(expected), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("5: 3", "c.yaml:1: 5: unknown key (known: name, run_id,"),
        ("editor: {5: 3}", "c.yaml:1: editor.5: 'elder-plus' has no such option"),
        ("stream: {null: 3}", "c.yaml: stream.None: unknown key"),
        ("tracking: {register_as: x}", "c.yaml:1: tracking.register_as: unknown key; did you mean 'register'?"),
        ("tracking: {s3: {regoin: x}}", "c.yaml:1: tracking.s3.regoin: unknown key; did you mean 'region'?"),
        ("tracking: {s3: 4}", "c.yaml:1: tracking.s3: expected a section of keys, found int 4"),
        ("data: {order: 3}", "c.yaml:1: data.order: expected one of given, shuffled, found int 3"),
        ("data: {order: null}", "c.yaml:1: data.order: expected one of given, shuffled, found nothing"),
        ("data: {source: 3}", "c.yaml:1: data.source: expected text, found int 3"),
        ("data: {source: ' '}", "c.yaml:1: data.source: expected text, found str ' '"),
        ("data: {edits: .inf}", "c.yaml:1: data.edits: expected a whole number, found float inf"),
        ("evaluation: {parts: [scope, 3]}", "c.yaml:1: evaluation.parts: expected a list of text, found int 3 in it"),
        ("evaluation: {parts: 3}", "c.yaml:1: evaluation.parts: expected a list of text, found int 3"),
        ("evaluation: {parts: [scop]}", "c.yaml:1: evaluation.parts: 'scop' is not one of"),
        (
            "cluster: {cpus_per_worker: 0}",
            "c.yaml:1: cluster.cpus_per_worker: 0 is too small, it must be greater than 0",
        ),
    ],
)
def test_what_a_key_cannot_be_is_told_with_what_it_can_be(text: str, problem: str, tmp_path: Path) -> None:
    (found,) = problems_of(text, tmp_path=tmp_path)
    assert found.startswith(problem), found


def test_on_the_command_line_text_is_what_was_typed() -> None:
    overrides = ("run_id=2024-01-01", "tracking.register=1e5", "model.source=true", "data.path=", "name='x'")
    config = config_of("", *overrides)
    assert (config.run_id, config.tracking.register_as, config.model.source) == ("2024-01-01", "1e5", "true")
    assert (config.data.path, config.name) == (None, "x")
    with pytest.raises(ConfigError, match="'0042' is not one of given, shuffled"):
        config_of("", "data.order=0042")
    with pytest.raises(ConfigError, match="expected a list of text, found int 1 in it"):
        config_of("", "evaluation.protocols=[1, forced]")


def test_on_and_off_are_what_is_written_and_not_what_yaml_reads() -> None:
    assert [config_of(f"data: {{chat: {word}}}").data.chat for word in ("on", "off", "auto", "both", "'off'")] == [
        "on", "off", "auto", "both", "off",
    ]  # fmt: skip
    assert config_of("", "data.chat=off").data.chat == "off"
    assert config_of(config_of("data: {chat: off}").dump_yaml()).data.chat == "off"
    with pytest.raises(ConfigError, match="'maybe' is not one of auto, on, off, both"):
        config_of("data: {chat: maybe}")


def test_keys_that_came_later_are_in_the_digest_where_they_say_something_new() -> None:
    usual = config_of("run_id: r").digest()
    for line in ("data: {chat: off}", "data: {system: Be brief.}", "data: {unusable: skip}",
                 "data: {known: true}",
                 "evaluation: {completions: true}"):  # fmt: skip
        assert config_of(f"run_id: r\n{line}").digest() != usual, line


def test_a_copy_with_other_values_is_checked_too() -> None:
    config = config_of("", "run_id=r1")
    assert config.replace(run_id="r2").replace(run_id="r1") == config
    with pytest.raises(ValidationError):
        config.replace(runid="r2")
    with pytest.raises(ValidationError):
        config.stream.replace(batch_size=0)


def test_every_figure_that_is_measured_may_be_a_gate() -> None:
    parts = "evaluation.parts=[reliability,generalization,locality,portability,scope,mention,name,stale,after_answer]"
    bounds = {"locality.same_subject": 0.9, "locality.mention.forced": 0.9, "locality.name": 0.9, "alias": 0.5,
              "stale": 0.0, "fluency.after_answer": 3.0, "fluency.after_answer_ratio": 1.1,
              "scope.mention": 0.05}  # fmt: skip
    given = [f"gates.{name}={bound}" for name, bound in bounds.items()]
    assert config_of("", parts, *given).gates == bounds


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("cluster.workers=0 cluster.sharding=zero3", "cluster.sharding"),
        ("tracking.register=x tracking.mlflow=null", "tracking.register"),
        ("cluster.gpus_per_worker=1 model.device=cpu", "cluster.gpus_per_worker"),
        ("tracking.s3.endpoint_url=http://localhost:1", "tracking.s3.endpoint_url"),
        ("run_id=a/b", "run_id"),
        ("gates.reliability=1.5", "gates.reliability"),
        ("gates.reliability=high", "gates.reliability"),
        ("gates.portability=0.5 evaluation.parts=[reliability]", "gates.portability"),
        ("gates.locality.mention=0.5 evaluation.parts=[reliability]", "gates.locality.mention"),
        ("gates.locality.mention.forced=0.5 evaluation.protocols=[generate]", "gates.locality.mention.forced"),
        ("gates.stale=0.1", "gates.stale"),  # its part is not measured unless it is asked for
        ("gates.fluency.after_answer=2", "gates.fluency.after_answer"),
        ("gates.fluency.after_answer=0 evaluation.parts=[after_answer]", "gates.fluency.after_answer"),
        ("gates.scope.mention.forced=0.5", "gates.scope.mention.forced"),
        ("gates.scope.mention=2", "gates.scope.mention"),
        ("evaluation.protocols=[]", "evaluation.protocols"),
        ("evaluation.parts=[scope,scope]", "evaluation.parts"),
        ("editor.batch_size=3", "editor.batch_size"),
        ("editor.top_k=9", "editor.top_k"),
        ("editor.method=eldr", "editor.method"),
        ("data.edits=true", "data.edits"),
        ("cluster.max_failures=1.5", "cluster.max_failures"),
        ("model.revision=[a]", "model.revision"),
    ],
)
def test_contradictions_and_impossible_values_name_their_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("", *override.split())
    assert all(f": {key}" in problem for problem in caught.value.problems), caught.value.problems


def test_malformed_files_and_overrides_say_where(tmp_path: Path) -> None:
    assert "c.yaml:2: not YAML" in problems_of("a: 1\nb: [\n: }", tmp_path=tmp_path)[0].replace("c.yaml:3", "c.yaml:2")
    assert problems_of("seed: 1\nname: x\nseed: 2\n", tmp_path=tmp_path)[0].startswith("c.yaml:3: seed: duplicate key")
    assert "at the top" in problems_of("- 1\n", tmp_path=tmp_path)[0]
    found = problems_of("seed: 1\n", "=3", "seed", "a b=2", tmp_path=tmp_path)
    assert len(found) == 3
    assert all("not of the form" in line for line in found)
    assert "holds a value" in problems_of("seed: 1\n", "seed.x=3", tmp_path=tmp_path)[0]
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load_config("dmo")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "b.yaml"))


def test_round_trips_through_yaml_and_pickle() -> None:
    config = config_of(
        "gates: {locality: 0.9}\ntracking: {store: s3://b/p, s3: {endpoint_url: http://h:1}}", "run_id=r1"
    )
    assert parse_config(config.dump_yaml()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert parse_config(config.dump_yaml()).digest() == config.digest()


def test_digest_ignores_exactly_what_cannot_change_the_result() -> None:
    config = config_of("", "run_id=r1")
    samples = {
        "cluster.workers": "3",
        "cluster.sharding": "zero3",
        "tracking.store": "elsewhere",
        "data.path": "elsewhere.jsonl",
        "name": "other",
        "run_id": "r2",
        "model.device": "cpu",
        "evaluation.batch_size": "3",
        "evaluation.probes": "0",
    }
    for key, value in samples.items():
        assert any(key == name or key.startswith(name + ".") for name in RunConfig.DIGEST_EXCLUDED)
        changed = config_of("", "run_id=r1", f"{key}={value}")
        assert changed != config
        assert changed.digest() == config.digest()
        assert diff(config, changed) == []
    for key, value in {
        "seed": 1,
        "editor.lr": 1,
        "stream.batch_size": 5,
        "data.edits": 9,
        "gates.locality": 0.5,
    }.items():
        changed = config_of("", "run_id=r1", f"{key}={value}")
        assert changed.digest() != config.digest()
        assert [line.split(":")[0] for line in diff(config, changed)] == [key]
    assert diff(config, config_of("", "seed=1", "data.edits=3")) == ["data.edits: null -> 3", "seed: 0 -> 1"]


def test_stream_and_seed_are_handed_to_the_method() -> None:
    options = config_of("", "stream.batch_size=7", "seed=5").editor_options()
    assert (options.batch_size, options.seed) == (7, 5)


def test_run_ids_are_fresh_and_usable_as_keys() -> None:
    made = {fresh_run_id("My run/№ 1") for _ in range(20)}
    assert len(made) == 20
    assert all(name.startswith("my-run-1-") for name in made)
    assert config_of("name: Über").run_id.isascii()


def test_every_key_is_documented_and_the_committed_page_is_current() -> None:
    page = config_reference()
    for key in flatten(config_of().to_dict()):
        assert f"| `{key}` |" in page, key
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == page, (
        "docs/config.md is out of date: elder ls config-reference > docs/config.md"
    )


def test_reading_a_config_does_not_import_torch() -> None:
    code = (
        "import sys; from elder.pipelines.config.run import load_config; load_config('paper/elder_gpt2xl_zsre');"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ability_is_off_and_then_no_part_of_a_digest() -> None:
    config = config_of("", "run_id=r1")
    assert config.evaluation.ability.tasks == ()
    assert not any("ability" in key for key in config.kept())
    asked = config_of("", "run_id=r1", "evaluation.ability.tasks=[gsm8k]")
    assert diff(config, asked) == ['evaluation.ability.tasks: (not set) -> ["gsm8k"]']


def test_gates_of_ability_name_what_is_measured(tmp_path: Path) -> None:
    text = "evaluation: {ability: {tasks: [rte, wikitext]}}\n"
    gates = "gates: {ability: {rte: 0.02, rte.said: 0.1, wikitext: 1.5}}"
    found = config_of(text + gates).gates
    assert found == {"ability.rte": 0.02, "ability.rte.said": 0.1, "ability.wikitext": 1.5}
    wrong = {"gsm8k": 0.1, "chess": 0.1, "rte": -1, "rte.said": 2, "wikitext": "low"}
    gates = "gates: {" + ", ".join(f"ability.{name}: {bound}" for name, bound in wrong.items()) + "}"
    problems = problems_of(text + gates, tmp_path=tmp_path)
    expected = {
        "gsm8k": "not among evaluation.ability.tasks", "chess": "no such task", "rte": "the largest loss",
        "rte.said": "between 0 and 1", "wikitext": "expected a number",
    }  # fmt: skip
    for name, reason in expected.items():
        assert any(f"gates.ability.{name}:" in line and reason in line for line in problems), (name, problems)
    assert len(problems) == len(wrong)


def test_unknown_tasks_and_isolated_ones_are_refused(tmp_path: Path) -> None:
    text = "evaluation: {ability: {tasks: [chess]}}"
    assert any("evaluation.ability.tasks" in line for line in problems_of(text, tmp_path=tmp_path))
    text = "evaluation: {ability: {tasks: [rte]}}\nstream: {strategy: isolated}\ntracking: {register: null}"
    assert any("are not measured where edits are isolated" in line for line in problems_of(text, tmp_path=tmp_path))
