"""The config of a search: strict, all mistakes at once, every value checked before anything starts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from elder.errors import ConfigError
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.objective import metric_names
from elder.pipelines.config.run import load_config
from elder.pipelines.config.search import load_tune_config, parse_tune_config, tune_diff
from elder.pipelines.config.space import Domain, flatten_space, read_domain
from tests.pipelines.tune_fakes import make_search

GOOD = """\
name: x
editor: {method: elder}
tune:
  space:
    editor.lr: {loguniform: [1e-5, 1e-2]}
    editor.rank: {choice: [4, 8]}
"""


def problems_of(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_tune_config(str(path), overrides)
    return [problem.replace(str(path), "c.yaml") for problem in caught.value.problems]


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith("tune/")])
def test_shipped_searches_load_and_come_back_from_their_own_yaml(name: str) -> None:
    config = load_tune_config(name)
    again = parse_tune_config(config.dump_yaml())
    assert again == config
    assert again.digest() == config.digest()
    assert config.tune_id.startswith("tune-")
    with pytest.raises(ConfigError, match="elder tune"):
        load_config(name)


def test_the_papers_search_has_the_papers_values() -> None:
    space = load_tune_config("tune/elder_paper").space
    assert space["editor.epsilon"].values == (0, 6, 12, 18, 24)
    assert space["editor.top_k"].values == (1, 2, 3, 4, 5)
    assert space["editor.experts"].values == (2, 4, 8, 16)
    assert space["editor.guide_weight"].values == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert {"editor.rank", "editor.layers", "editor.lr"} <= set(space)


def test_a_run_config_is_no_search() -> None:
    with pytest.raises(ConfigError, match="elder edit"):
        load_tune_config("demo")


def test_all_mistakes_come_at_once_with_their_places(tmp_path: Path) -> None:
    text = GOOD + "  trails: 3\n  searcher: tpf\n  objective: [reliabilty]\n"
    found = problems_of(
        tmp_path, text, "tune.space.editor.lr={loguniforn: [1, 2]}", "tune.space.data.edits={int: [1, 2]}"
    )
    assert found[0] == "c.yaml:7: tune.trails: unknown key; did you mean 'trials'?"
    assert "c.yaml:8: tune.searcher: 'tpf' is not one of random, tpe, grid; did you mean 'tpe'?" in found
    assert "command line: tune.space.editor.lr: unknown kind 'loguniforn'; did you mean 'loguniform'?" in found
    assert any(line.startswith("command line: tune.space.data.edits: cannot be searched") for line in found)
    assert any("'reliabilty' is no quantity; did you mean 'reliability'?" in line for line in found)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.space.editor.lr={uniform: [-1, 1]}", "-1.0: editor.lr: -1.0 is too small, it must be greater than 0"),
        ("tune.space.editor.rank={choice: [4, 0]}", "0: editor.rank: 0 is too small, the least is 1"),
        ("tune.space.editor.rank={uniform: [1, 9]}", "expected a whole number"),
        ("tune.space.editor.lrr={uniform: [1, 9]}", "has no such option; did you mean 'lr'"),
        ("tune.space.editor.rank={choice: []}", "the list is empty"),
        ("tune.space.editor.rank={choice: [4, 4]}", "twice"),
        ("tune.space.editor.rank={int: [4]}", "expected two numbers"),
        ("tune.space.editor.rank={int: [9, 4]}", "must be smaller"),
        ("tune.space.editor.lr={loguniform: [0, 4]}", "greater than 0"),
        ("tune.space.editor.rank=8", "expected one of {loguniform"),
        ("tune.space.editor.top_k={choice: [5, 2]}", "5: editor.top_k: 5 LoRAs cannot be chosen"),
        ("tune.space.editor.method={choice: [elder]}", "search each by itself"),
        ("tune.space.editor.seed={int: [1, 3]}", "it is seed"),
        ("tune.space.seed={int: [1, 3]}", "tune.seeds repeats"),
        ("tune.searcher=grid", "a grid needs a choice or int, not loguniform"),
        ("tune.mode=min", "min needs one metric"),
        ("tune.objective=[locality.forced]", "add 'forced' to evaluation.protocols"),
        ("tune.objective=[portability]", "add 'portability' to evaluation.parts"),
        ("tune.trials=0", "too small"),
        ("tune.reduction=1", "must be greater than 1"),
        ("tune.space=3", "expected a section of keys"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, override: str, message: str) -> None:
    text = GOOD + "evaluation: {protocols: [generate], parts: [reliability, generalization, locality]}\n"
    assert any(message in problem for problem in problems_of(tmp_path, text, override))


def test_a_value_that_is_possible_with_another_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    given = ["tune.space.editor.top_k={choice: [1, 5]}", "tune.space.editor.experts={choice: [4, 8]}"]
    config = load_tune_config(str(path), given)
    assert config.possible({"editor.top_k": 5, "editor.experts": 8})
    assert not config.possible({"editor.top_k": 5, "editor.experts": 4})


def test_a_possible_value_is_not_blamed_for_an_impossible_one(tmp_path: Path) -> None:
    given = ["tune.space.editor.top_k={choice: [1, 5]}", "tune.space.editor.experts={choice: [4, 8]}"]
    found = problems_of(tmp_path, GOOD, *given, "tune.space.editor.steps={choice: [0]}")
    assert len(found) == 1
    assert "tune.space.editor.steps" in found[0]


def test_overrides_change_the_space() -> None:
    written = {
        "editor.lr": {"choice": [1]},
        "editor.rank": {"choice": [4]},
        "editor": {"lr": {"int": [1, 2]}, "rank": None},
    }
    assert flatten_space(written) == {"editor.lr": {"int": [1, 2]}}


def test_the_digest_knows_what_matters() -> None:
    config = make_search()
    assert make_search(concurrent=3, keep="all", resident=False, configs_per_group=2).digest() == config.digest()
    assert make_search(run_id="other").digest() == config.digest()
    other = make_search(trials=9, searcher="tpe")
    assert other.digest() != config.digest()
    assert tune_diff(config, other) == ['tune.searcher: "random" -> "tpe"', "tune.trials: 6 -> 9"]


def test_trials_get_their_parameters_and_nothing_else() -> None:
    config = make_search()
    trial = config.trial_config({"editor.lr": 0.002, "editor.rank": 16}, "s1-t0001", seed=4)
    assert (trial.editor.options["lr"], trial.editor.options["rank"], trial.seed) == (0.002, 16, 4)
    assert trial.run_id == "s1-t0001"
    back = config.trial_config({}, "s1")
    assert back == config.run


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "int", "logint"])
def test_draws_stay_inside_and_reach_both_ends(kind: str) -> None:
    domain, problem = read_domain({kind: [2, 9]})
    assert problem is None
    assert domain is not None
    drawn = [domain.draw(random.Random(i)) for i in range(400)]
    assert min(drawn) >= 2
    assert max(drawn) <= 9
    assert (domain.at(0.0), domain.at(1.0)) == (2, 9)
    if domain.whole:
        assert set(drawn) == set(range(2, 10))
        assert all(isinstance(value, int) for value in drawn)
    below = sum(value < 5 for value in drawn) / 400
    assert (below > 0.5) == domain.log  # log: 0.61 of the draws (0.57 of whole numbers), even: 0.43 and 0.375
    assert [domain.position(2), domain.position(9)] == [0, 1]


def test_whole_numbers_are_equally_likely() -> None:
    counts = [Domain("int", (1, 3)).at(i / 300) for i in range(300)]
    assert [counts.count(value) for value in (1, 2, 3)] == [100, 100, 100]


def test_bare_quantities_are_measured_by_the_first_protocol() -> None:
    assert metric_names(("reliability", "locality.forced", "perplexity"), ("generate", "forced")) == (
        "reliability.generate", "locality.forced", "perplexity",
    )  # fmt: skip
    assert metric_names(("locality.mention", "stale.forced"), ("generate",)) == (
        "locality.mention.generate", "stale.forced",
    )  # fmt: skip
