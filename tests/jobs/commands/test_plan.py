"""`elder plan` and `elder validate` of comparisons and studies: every run is counted, every mistake has its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elder.errors import ConfigError
from elder.pipelines.config.comparison import parse_compare_config
from elder.pipelines.config.study import parse_study_config
from elder.pipelines.config.suite import SuiteConfig
from elder.pipelines.planning.plan import plan
from elder.pipelines.planning.suite_plan import suite_plan
from tests.jobs.conftest import Elder

COMMON = {
    "run_id": "w",
    "model": {"source": "world:tiny"},
    "data": {"source": "world:tiny", "edits": 10},
    "stream": {"stage_size": 4, "batch_size": 2},
    "cluster": {"workers": 0},
}


def comparison(methods: dict[str, object], **compare: object) -> SuiteConfig:
    return parse_compare_config(json.dumps({**COMMON, "compare": {"methods": methods, **compare}}), "c.yaml")


def test_every_run_is_planned_as_it_would_be_alone_and_sums_are_sums() -> None:
    same = {"layers": [1]}
    whole = comparison({"memit": same, "rome": {**same, "text_tokens": 1000}, "emmet": same, "elder": {}})
    found = suite_plan(whole)
    for member in whole.members:
        assert found.plans[member.name] == plan(member.config)
    # memit and emmet use the same statistics; rome reads less of the text, so its are others.
    assert found.totals == {"runs": 4, "edits": 40, "stages": 12, "batches": 20, "statistics": 2}
    told = found.to_dict()
    assert (told["kind"], told["run_id"], told["keys"]) == (
        "compare", "w", ["compares/w/config.yaml", "compares/w/report/"],
    )  # fmt: skip
    assert told["statistics"] == {"memit": 1, "rome": 1, "emmet": 1, "elder": 0}
    assert told["runs"]["memit"]["keys"][0] == "runs/w-memit/config.yaml"
    json.dumps(told)


def test_a_strategy_changes_batches_and_an_open_length_is_said_to_be_open() -> None:
    assert suite_plan(comparison({"elder": {}}, strategy="single")).totals["batches"] == 10
    assert suite_plan(comparison({"elder": {}}, strategy="batch")).totals["stages"] == 1
    values = {**COMMON, "data": {"source": "world:tiny", "edits": None}, "compare": {"methods": {"elder": {}}}}
    totals = suite_plan(parse_compare_config(json.dumps(values))).totals
    assert (totals["edits"], totals["stages"], totals["batches"]) == (None, None, None)


def test_what_is_wrong_with_a_run_is_named_by_the_keys_of_the_config() -> None:
    with pytest.raises(ConfigError) as caught:
        suite_plan(comparison({"memit": {"layers": [99]}, "mine": {"method": "memit", "text": "absent.txt"}}))
    problems = caught.value.problems
    assert problems[0].startswith("compare.methods.memit.layers: the model has blocks 0 to")
    assert problems[1].startswith("compare.methods.mine.text: absent.txt")
    parts = {"p": {"axis": "layers", "values": [0, 99], "strategies": ["single"], "edits": 2}}
    study = parse_study_config(json.dumps({**COMMON, "study": {"methods": {"memit": {}, "rome": {}}, "parts": parts}}))
    with pytest.raises(ConfigError) as caught:
        suite_plan(study)
    (problem,) = caught.value.problems
    assert problem.startswith("study.parts.p.values: the model has blocks 0 to")


def test_the_command_line_plans_a_comparison_of_an_ordinary_config(elder: Elder, tmp_path: Path) -> None:
    given = ("cluster.workers=0", "cluster.sharding=none", "model.source=world:tiny", "data.source=world:tiny")
    done = elder("plan", "demo", *given, "--methods", "elder,memit", "--strategy", "single", "--json", "p.json")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["run", "method", "blocks", "a", "batch", "edits"] in [line[:6] for line in lines]
    assert any(line[:2] == ["memit", "memit"] and line[3:5] == ["1,", "isolated"] for line in lines)
    (total,) = [line for line in lines if line[:1] == ["total"]]
    told = json.loads((tmp_path / "p.json").read_text())
    assert total[1:] == [str(told["totals"][key]) for key in ("edits", "stages", "batches", "statistics")]
    assert set(told["runs"]) == {"elder", "memit"}
    for wrong, words in (
        (("--methods", "memt"), "did you mean 'memit'"),
        (("--methods", ","), "names no method"),
        (("--strategy", "single"), "--strategy: is for comparisons"),
        (("study.methods.elder={}", "study.parts={p: {values: [1]}}", "--methods", "elder"), "--methods: is for"),
    ):
        found = elder("plan", "demo", *given, *wrong)
        assert (found.code, words in found.err) == (2, True), found.err
    assert not (tmp_path / "elder-runs").exists()


def test_a_study_is_planned_and_validated(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    parts = "study.parts={p: {axis: layers, values: [2, 3], strategies: [single], edits: 2}}"
    given = [*small_run, "tracking.mlflow=null", "tracking.register=null", "study.methods.elder={}", parts]
    planned = elder("plan", "demo", *given, "run_id=s1")
    assert planned.code == 0, planned.err
    for text in ("p-elder-single-l0003", "studies/s1/report/", "runs/s1-RUN/...", "mlflow           none"):
        assert text in planned.out
    valid = elder("validate", "demo", *given, "--json", "v.json")
    assert valid.code == 0, valid.err
    assert "run p-elder-single-l0002" in valid.out
    assert set(json.loads((tmp_path / "v.json").read_text())["runs"]) == {
        "p-elder-single-l0002", "p-elder-single-l0003",
    }  # fmt: skip
    outside = elder("validate", "demo", *given, "study.parts.p.values=[2, 9]")
    assert outside.code == 2
    assert "study.parts.p.values: the model has blocks 0 to 3, there is no block 9" in outside.err


def test_what_a_method_lacks_is_found_by_validate(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    rows = [{"prompt": "The town is", "target": "Oslo"}, {"prompt": "The river is", "target": "Nile"}]
    (tmp_path / "none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [*small_run, f"data.path={tmp_path / 'none.jsonl'}", "tracking.register=null", "compare.methods.elder={}"]
    found = elder("validate", "demo", *given, "compare.methods.rome={layers: [7]}")
    assert found.code == 2
    lines = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 4, found.err
    for text in ("compare.methods.rome: ", "compare.methods.rome.layers: ", "compare.methods.rome.text: "):
        assert sum(line.startswith(f"error: {text}") for line in lines) == (2 if text.endswith("rome: ") else 1), lines
    assert elder("validate", "demo", *given).code == 0
    assert elder("validate", "demo", *given, "--methods", "elder").code == 0
