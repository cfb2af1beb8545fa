"""YAML that PyYAML reads and nobody means, or that ends there in a raw exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.errors import ConfigError
from elder.pipelines.config.files import parse_document, read_document
from elder.pipelines.config.run import load_config
from elder.pipelines.config.yaml_text import DEEPEST, MOST_NODES, YamlError, parse_yaml

MULTIPLIED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
REFUSED = {
    "a: 1\nb: &b [1, *b]": (2, "leads back into what it names"),
    "a: &a {b: *a}": (1, "leads back"),
    MULTIPLIED: (5, f"more than {MOST_NODES:,} values"),
    "a: 1\nb: !!float x": (2, "'x' is no float"),
    "a: !!int ''": (1, "'' is no int"),
    "a: !!bool maybe": (1, "'maybe' is no bool"),
    "a: !!set {x, y}": (1, "the tag !!set is not taken here"),
    "a: !!timestamp 2026-01-01": (1, "the tag !!timestamp"),
    "a: !!python/object:os.system x": (1, "is not taken here"),
    "a: !mine x": (1, "the tag !mine"),
    "a: !!seq x": (1, "the tag !!seq"),
    "a: 1\nb: " + "9" * 5000: (2, "a number has 5000 characters"),
    "a: 1e999": (1, "the number 1e999 is too large"),
    'a: "\\ud83d"': (1, "half a character"),
    "a: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1): (1, f"nested more than {DEEPEST} deep"),
    "[" * 50_000: (None, f"nested more than {DEEPEST} deep"),
    "a: [1": (None, "not YAML"),
    "a: \x00": (None, "not YAML"),
    'a: "\\UFFFFFFFF"': (None, "not YAML"),
    'a: "\\U00110000"': (None, "not YAML"),
    "? [a, b]\n: 1": (1, "unhashable"),
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused_with_its_line(text: str) -> None:
    line, said = REFUSED[text]
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert said in str(caught.value)
    assert line is None or caught.value.line == line
    with pytest.raises(ConfigError, match=r"^c\.yaml"):
        parse_document(text, "c.yaml")


def test_aliases_and_merging_are_taken() -> None:
    text = "one: &one {a: 1, b: [2, 3]}\ntwo: {<<: *one, a: 4}\nthree: *one\n"
    assert parse_document(text, "c.yaml").values == {
        "one": {"a": 1, "b": [2, 3]},
        "two": {"a": 4, "b": [2, 3]},
        "three": {"a": 1, "b": [2, 3]},
    }


def test_dates_are_the_text_that_was_written() -> None:
    assert parse_yaml("a: 2026-01-31\nb: 2026-01-31 10:00:00\nc: 1e-4\nd: 12\ne: .inf")[1] == {
        "a": "2026-01-31",
        "b": "2026-01-31 10:00:00",
        "c": 1e-4,
        "d": 12,
        "e": float("inf"),
    }


def test_overrides_that_are_no_yaml_are_texts_and_odd_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\n")
    for text in ("&a [*a]", "!!float x", "[" * 1000, "@x: y"):
        assert read_document(str(path), [f"b={text}"]).values["b"] == text
    with pytest.raises(ConfigError, match="half a character"):
        read_document(str(path), ["b=\udcff"])
    with pytest.raises(ConfigError, match="is no key: it has 1000 parts"):
        read_document(str(path), [".".join(["a"] * 1000) + "=1"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.source", "https://u:hunter2@host/x"), ("model.source", "https://hunter2@host"), ("name", "s3://a:hunter2@b"),
     ("editor.text", "x https://u:hunter2@host"), ("nonsense", "https://u:hunter2@host"),
     ("evaluation.parts", "[https://u:hunter2@host]"), ("data", "{https://u:hunter2@host: 1}")],
)  # fmt: skip
def test_no_config_holds_a_login(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [f"{key}={value}"])
    assert "hunter2" not in str(caught.value)
    assert f"{key}: holds a user or a password" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [("editor.rank=1000000", "1000000 is too large, the most is 16384"),
     ("editor.lr=1e308", "1e+308 is too large, the most is 1000"),
     ("editor={method: elder, rank: 16384, experts: 5}", "more than 65,536 directions"),
     ("editor.guide_weight=1e300", "1e+300 is too large, the most is 1e+30"),
     ("stream.stage_size=99999999999999999999", "is too large, the most is 9.22337e+18"),
     ("gates.perplexity=.inf", "expected a number, found inf"),
     ("gates.perplexity=.nan", "expected a number, found nan"),
     ("tracking.retry_timeout_s=1e30", "is too large, the most is 1e+08")],
)  # fmt: skip
def test_numbers_beyond_reason_are_refused(override: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("editor: {method: elder}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [override])
    assert said in str(caught.value)
    assert override.partition("=")[0].partition(":")[0] in str(caught.value)
