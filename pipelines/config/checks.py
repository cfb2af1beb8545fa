"""Checks beyond the schema: whether the keys of a config go together, and whether the method knows its options.

Knows nothing of files; `pipelines.config.run` calls it once everything has its type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

from elder.ability.tasks import FIGURES, PERPLEXITIES, SAID
from elder.errors import ConfigError
from elder.metrics.figures import AMOUNTS, SCOPES, SHARES, parts_of, split_name
from elder.options.messages import found
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.document import Document
from elder.pipelines.config.sections import EditorConfig
from elder.registry import make_options, options_class

GATES = (*SHARES, *AMOUNTS, *SCOPES)
RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
INHERITED_OPTIONS = {"batch_size": "stream.batch_size", "seed": "seed"}  # options of a method -> keys that set them

Make = Callable[[str, Mapping[str, Any]], Any]
"""Makes the typed options of a method from plain values; raises `ConfigError`."""


def build_editor(
    given: Any,
    document: Document,
    problems: list[str],
    default: str = EditorConfig().method,
    make: Make = make_options,
    inherited: Mapping[str, str] = INHERITED_OPTIONS,
    handed: Mapping[str, Any] | None = None,
) -> EditorConfig:
    """The `editor` section: `method`, and beside it the options that the method declares.

    Args:
        given: The section.
        document: Where it comes from, for messages.
        problems: Receives everything that is wrong.
        default: The method of a section that names none.
        make: Checks the options.
        inherited: Options that other keys set: they are no part of the section.
        handed: The other sections as written, with the values of those keys.
    """
    if not isinstance(given, Mapping | None):
        problems.append(f"{document.at('editor')}: expected a section of keys, found {found(given)}")
        given = None
    options = dict(given or {})
    method = options.pop("method", default)
    if not isinstance(method, str):
        problems.append(f"{document.at('editor.method')}: expected the name of a method, found {method!r}")
        method, options = default, {}
    for name in [n for n in inherited if n in options]:
        problems.append(f"{document.at(f'editor.{name}')}: is set by '{inherited[name]}', not here")
        options.pop(name)
    try:
        typed = make(method, options)
        # Impossible pairs with inherited values show only when those are there; wrong types of theirs are reported by
        # their own sections.
        own = _handed(handed or {}, type(typed).model_fields)
        typed = make(method, {**options, **own}) if own else typed
    except ConfigError as error:
        problems += [_placed(problem, document) for problem in error.problems]
        method, typed = default, make(default, {})
    return EditorConfig(method=method, options=typed.model_dump(mode="json", exclude=set(inherited)))


def _handed(values: Mapping[str, Any], declared: Container[str]) -> dict[str, int]:
    stream = values.get("stream")
    batch_size = stream.get("batch_size") if isinstance(stream, Mapping) else None
    given = {"seed": values.get("seed"), "batch_size": batch_size}
    return {k: v for k, v in given.items() if k in declared and type(v) is int and v >= (k == "batch_size")}


def inherited_options(config: StagedConfig) -> dict[str, int]:
    """The options of the method that other sections set, as far as the method has them."""
    found = {"batch_size": config.stream.batch_size, "seed": config.seed}
    declared = options_class(config.editor.method).model_fields
    return {name: value for name, value in found.items() if name in declared}


def _placed(problem: str, document: Document) -> str:
    """A problem of the registry, which begins with its key, with the place of that key in front."""
    key = problem.partition(":")[0]
    return f"{document.places.get(key, document.source)}: {problem}"


def gate_problems(config: StagedConfig, document: Document) -> list[str]:
    """Problems of the gates: unknown ones, impossible bounds, metrics that are not measured."""
    problems = []
    for name, bound in config.gates.items():
        key, (quantity, protocol) = f"gates.{name}", split_name(name)
        if name.startswith("ability."):
            task = name.removeprefix("ability.")
            problems += [f"{document.at(key)}: {text}" for text in _ability_problems(config, task, bound)]
        elif quantity not in GATES:
            problems.append(f"{document.at(key)}: no such gate (known: {', '.join(GATES)}, ability.TASK)")
        elif isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            problems.append(f"{document.at(key)}: expected a number, found {bound!r}")
        elif quantity == "perplexity":
            problems += [f"{document.at(key)}: must be greater than 1, found {bound}"] if bound <= 1 else []
        elif quantity in AMOUNTS and bound <= 0:
            problems.append(f"{document.at(key)}: must be greater than 0, found {bound}")
        elif quantity not in AMOUNTS and not 0 <= bound <= 1:
            problems.append(f"{document.at(key)}: expected a share between 0 and 1, found {bound}")
        elif protocol and quantity not in SHARES:
            problems.append(f"{document.at(key)}: '{quantity}' is measured without a protocol; take '{protocol}' away")
        elif protocol and protocol not in config.evaluation.protocols:
            measured = ", ".join(config.evaluation.protocols)
            problems.append(f"{document.at(key)}: '{protocol}' is not among evaluation.protocols ({measured})")
        elif not set(parts_of(quantity)) & set(config.evaluation.parts):
            problems.append(f"{document.at(key)}: '{quantity}' is not among evaluation.parts, so it is not measured")
    return problems


def _ability_problems(config: StagedConfig, figure: str, bound: Any) -> list[str]:
    """What is wrong with a gate `ability.FIGURE`, the largest loss against the unedited model."""
    task = figure.removesuffix(SAID)
    if figure not in FIGURES:
        return [f"no such task (known: {', '.join(f'ability.{name}' for name in FIGURES)})"]
    if task not in config.evaluation.ability.tasks:
        return [f"'{task}' is not among evaluation.ability.tasks, so it is not measured"]
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        return [f"expected a number, found {bound!r}"]
    most = math.inf if task in PERPLEXITIES else 1
    return [] if 0 <= bound <= most else [f"expected the largest loss, between 0 and {most:g}, found {bound}"]


def contradictions(config: StagedConfig) -> list[tuple[str, str]]:
    """Keys of a run whose values do not go together, with what to do."""
    stream, wrong = config.stream, []
    if stream.batch_size > stream.stage_size:
        text = f"{stream.batch_size} is larger than stream.stage_size = {stream.stage_size}"
        wrong.append(("stream.batch_size", text))
    if stream.strategy == "isolated":
        if config.tracking.register_as:
            wrong.append(("tracking.register", "isolated edits leave no adapter: set it to null"))
        if "perplexity" in config.gates:
            wrong.append(("gates.perplexity", "is not measured where edits are isolated: take it out"))
        if config.evaluation.ability.tasks:
            wrong.append(("evaluation.ability.tasks", "are not measured where edits are isolated: take them out"))
    for key in ("protocols", "parts"):
        if not getattr(config.evaluation, key):
            wrong.append((f"evaluation.{key}", "the list is empty, nothing would be measured"))
    return wrong + common_contradictions(config)


def common_contradictions(config: StagedConfig) -> list[tuple[str, str]]:
    """Those of the sections that runs and trainings share."""
    wrong = []
    cluster, tracking = config.cluster, config.tracking
    if not RUN_ID.match(config.run_id):
        wrong.append(("run_id", f"'{config.run_id}' must be letters, digits, '.', '_' or '-', at most 100"))
    if cluster.workers == 0 and cluster.sharding in ("zero2", "zero3"):
        text = f"{cluster.sharding} needs workers: set cluster.workers to 1 or more, or sharding to none"
        wrong.append(("cluster.sharding", text))
    if cluster.gpus_per_worker > 0 and config.model.device == "cpu":
        wrong.append(("cluster.gpus_per_worker", "model.device is cpu: set it to auto, or gpus_per_worker to 0"))
    if tracking.register_as and not tracking.mlflow:
        wrong.append(("tracking.register", "needs tracking.mlflow: give a tracking server, or set register to null"))
    if tracking.s3.endpoint_url and not tracking.store.startswith("s3://"):
        text = f"tracking.store is the directory '{tracking.store}', not s3://bucket/prefix"
        wrong.append(("tracking.s3.endpoint_url", text))
    return wrong
