"""Config files of every kind and overrides, mutated as values, as YAML text and as bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from elder.pipelines.config.comparison import load_compare_config
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.run import load_config
from elder.pipelines.config.search import load_tune_config
from elder.pipelines.config.study import load_study_config
from elder.pipelines.config.training import load_train_config
from tests.fuzz.judge import Case
from tests.fuzz.mutate import ODD_TEXTS, Untouched, mutated_bytes, mutated_value, odd_value

LOADERS: Mapping[str, tuple[str, Any]] = {
    "edit": ("", load_config),
    "tune": ("tune", load_tune_config),
    "compare": ("compare", load_compare_config),
    "study": ("study", load_study_config),
    "training": ("training", load_train_config),
}


@cache
def sources(section: str) -> tuple[tuple[str, Any], ...]:
    """Texts and values of the packaged configs that have a section; without one: of those that have none of them."""
    named = {name for name, _ in LOADERS.values() if name}
    texts = [path.read_text(encoding="utf-8") for path in packaged_configs().values()]
    pairs = [(text, yaml.safe_load(text)) for text in texts]
    return tuple(pair for pair in pairs if named & {*pair[1]} == ({section} if section else set()))


def mutated_yaml(rng: Random, text: str, values: Any) -> bytes:
    """A YAML text with some changes."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, text.encode())
    dumped = yaml.dump(mutated_value(rng, values), sort_keys=False, allow_unicode=rng.random() < 0.5)
    return dumped.encode("utf-8", errors=rng.choice(("surrogatepass", "backslashreplace")))


def overrides(rng: Random, values: Any) -> list[str]:
    """Some `key.sub=value`, most with a key that there is."""
    if isinstance(rng, Untouched):
        return []
    keys = [key for key, _ in _leaves(values, "")]
    found = []
    for _ in range(rng.randrange(4)):
        key = rng.choice((*keys, "editor.rank", "seed", "a.b.c", "editor.lr", *ODD_TEXTS))
        value = rng.choice(
            (str(odd_value(rng)), rng.choice(ODD_TEXTS), yaml.dump(odd_value(rng), default_flow_style=True))
        )
        found.append(f"{key}={value}" if rng.random() < 0.95 else key)
    return found


def _leaves(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}" if prefix else str(key))]


def _case(kind: str) -> Case:
    section, load = LOADERS[kind]

    def make(rng: Random, folder: Path) -> Callable[[], object]:
        text, values = rng.choice(sources(section))
        path = folder / "run.yaml"
        path.write_bytes(mutated_yaml(rng, text, values) if rng.random() < 0.8 else text.encode())
        given = overrides(rng, values) if rng.random() < 0.5 else []

        def call() -> object:
            config = load(str(path), given)
            return config.digest(), config.dump_yaml()

        return call

    return make


CONFIGS: Mapping[str, Case] = {f"configs-{kind}": _case(kind) for kind in LOADERS}
