"""The config of a search: an ordinary run config with a section `tune` beside it.

Checked as strictly as a run: every end of a range and every choice must give a config that can run, in at least one
combination with the others. Imports no torch. Knows nothing of Ray, stores or how trials are run.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal

from elder.errors import ConfigError
from elder.metrics.figures import AMOUNTS, SCOPES, SHARES, parts_of, split_name
from elder.options.fields import Count, Listed, Natural, Number, OneOf, Settings, Text, setting
from elder.options.messages import suggestion
from elder.pipelines.config.base import as_yaml
from elder.pipelines.config.document import Document, build
from elder.pipelines.config.files import readers
from elder.pipelines.config.objective import metric_names
from elder.pipelines.config.run import RunConfig, diff, fresh_run_id, resolve
from elder.pipelines.config.space import Domain, Parameters, flatten_space, grid_points, read_domain
from elder.pipelines.config.suite import common_run

SECTION = "tune"
SEARCHERS, SCHEDULERS = ("random", "tpe", "grid"), ("asha", "none")
SEARCHABLE = ("stream.batch_size", "model.dtype")  # beside editor.*
NOT_SEARCHED = {
    "seed": "tune.seeds repeats the best with other seeds",
    "editor.method": "methods have different options: search each by itself",
    "editor.batch_size": "it is stream.batch_size",
    "editor.seed": "it is seed",
}
COMPANIONS = 400  # combinations with other keys that are tried before a value is called impossible
LONGEST_ID = 80  # a trial's run id is the search's followed by a few characters, at most 100 in all


class TuneSection(Settings):
    """The space that is searched, how, and how the best is confirmed."""

    space: Mapping[str, Any] = setting(
        {},
        "Config keys and the values they may take: `editor.lr: {loguniform: [1e-5, 1e-2]}`; kinds: `loguniform`, "
        "`uniform`, `int`, `logint` (both ends belong to the range), `choice`. Keys: `editor.*`, "
        "`stream.batch_size`, `model.dtype`.",
    )
    searcher: Annotated[str, OneOf(SEARCHERS)] = setting(
        "random",
        "`random`; `tpe` learns from the trials that have ended (Optuna); `grid` takes every combination in order.",
    )
    scheduler: Annotated[str, OneOf(SCHEDULERS)] = setting(
        "asha",
        "`asha` stops trials between stages that fall behind the others; `none` runs all to their end.",
    )
    trials: Count = setting(20, "How many configurations are tried; a grid may have fewer.")
    concurrent: Count | None = setting(
        None, "Trials at the same time; `null`: as many as the cluster has room for; a number is a cap."
    )
    objective: Listed[Text] = setting(
        ("reliability", "generalization", "locality"),
        "One metric, or several whose harmonic mean counts. A bare quantity is measured by the first protocol of "
        "`evaluation.protocols`; any metric of a stage can be named.",
    )
    mode: Literal["max", "min"] = setting("max", "Whether a large or a small objective is good.")
    grace_stages: Count = setting(1, "Stages that `asha` gives every trial.")
    reduction: Number = setting(
        3.0, "At stage grace, grace x reduction, ... `asha` lets about one trial in `reduction` continue.", gt=1
    )
    finalists: Natural = setting(3, "How many of the best trials are repeated with other seeds; 0 repeats none.")
    seeds: Count = setting(3, "Runs of each finalist, with seed, seed + 1, ...; the trial itself is the first.")
    resident: bool = setting(
        True, "Worker groups stay from trial to trial, with the base model loaded; `false`: a new group each trial."
    )
    configs_per_group: Count | None = setting(None, "Trials after which a worker group is started anew; `null`: never.")
    keep: Literal["last", "all"] = setting(
        "last", "Which adapters of ended trials stay in the store: the last stage's, or all."
    )


class TuneConfig(Settings):
    """A whole search, resolved.

    Attributes:
        run: The config that trials start from; its `run_id` is the id of the search.
        tune: The section `tune`.
        space: The space, read: dotted key -> domain.
        DIGEST_EXCLUDED: Keys of the section that say where and in which groups trials run.
    """

    DIGEST_EXCLUDED: ClassVar = ("concurrent", "configs_per_group", "resident", "keep")

    run: RunConfig
    tune: TuneSection
    space: Mapping[str, Domain]

    @property
    def tune_id(self) -> str:
        """Names the search for ever."""
        return self.run.run_id

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files."""
        return {**self.run.to_dict(), SECTION: self.tune.model_dump(mode="json")}

    def dump_yaml(self) -> str:
        """The resolved config as YAML; `parse_tune_config` reads it back."""
        return as_yaml(self.to_dict())

    def digest(self) -> str:
        """sha256 of all that can change the outcome; equal for a search to be continued.

        Left out are what a run leaves out, and `DIGEST_EXCLUDED`.
        """
        kept = {k: v for k, v in self.to_dict()[SECTION].items() if k not in self.DIGEST_EXCLUDED}
        return hashlib.sha256(json.dumps([self.run.digest(), kept], sort_keys=True).encode()).hexdigest()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The full names of the metrics that the objective is made of."""
        return metric_names(self.tune.objective, self.run.evaluation.protocols)

    def trial_config(self, parameters: Parameters, run_id: str, seed: int | None = None) -> RunConfig:
        """The config of one trial.

        Raises:
            ConfigError: These parameters do not go together.
        """
        values = self.run.to_dict() | {"run_id": run_id}
        return resolve(Document(_with(values, parameters, seed), f"trial {run_id}"))

    def possible(self, parameters: Parameters) -> bool:
        """Whether these parameters give a config that can run."""
        try:
            self.trial_config(parameters, "possible")
        except ConfigError:
            return False
        return True


def resolve_tune(document: Document) -> TuneConfig:
    """Check a document against the schema and fill in the defaults.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    if SECTION not in document.values:
        raise ConfigError(
            f"{document.source}: has no section '{SECTION}', so there is nothing to search; "
            "run it with `elder edit`, or add `tune: {space: {...}}`"
        )
    values = {key: value for key, value in document.values.items() if key != SECTION}
    problems: list[str] = []
    section = build(TuneSection, document.values[SECTION], document, problems, SECTION)
    run = common_run(values, document, problems)
    space = _read_space(section, document, problems)
    if run is not None:
        problems += _section_problems(run, section, space, document)
        problems += _impossible(run, space, document)
    if problems or run is None:
        raise ConfigError(problems)
    if "run_id" not in document.values or not document.values["run_id"]:
        run = run.replace(run_id=fresh_run_id(f"tune-{run.name}"))
    section = section.replace(space={key: domain.to_plain() for key, domain in space.items()})
    return TuneConfig(run=run, tune=section, space=space)


load_tune_config, parse_tune_config = readers(resolve_tune)


def tune_diff(old: TuneConfig, new: TuneConfig) -> list[str]:
    """The difference of two digests: one line `key: old -> new` for each key."""
    before, after = (config.to_dict()[SECTION] for config in (old, new))
    lines = diff(old.run, new.run)
    for name in (name for name in before if name not in old.DIGEST_EXCLUDED):
        if before[name] != after[name]:
            lines.append(f"tune.{name}: {json.dumps(before[name])} -> {json.dumps(after[name])}")
    return lines


def not_continued(old: TuneConfig, new: TuneConfig) -> list[str]:
    """The differences with which a search cannot be continued, in the form of `tune_diff`: all but more trials."""
    had, wanted = old.tune.trials, new.tune.trials
    if wanted >= had:
        old = old.replace(tune=old.tune.replace(trials=wanted))
    fewer = f"tune.trials: {had} -> {wanted}"
    lines = tune_diff(old, new)
    return [f"{line} (a search can be given more trials, not fewer)" if line == fewer else line for line in lines]


def _read_space(section: TuneSection, document: Document, problems: list[str]) -> dict[str, Domain]:
    space: dict[str, Domain] = {}
    written = flatten_space(section.space)
    if not written:
        problems.append(f"{document.at('tune.space')}: is empty: name the keys to search, such as editor.lr")
    for key, given in written.items():
        place = document.at(f"tune.space.{key}")
        if (not key.startswith("editor.") and key not in SEARCHABLE) or key in NOT_SEARCHED:
            reason = NOT_SEARCHED.get(key, "trials could not be compared")
            near = suggestion(key, (*SEARCHABLE, "editor.")) or ""
            problems.append(f"{place}: cannot be searched ({reason}); editor.*, {', '.join(SEARCHABLE)} can{near}")
            continue
        domain, problem = read_domain(given)
        if problem or domain is None:
            problems.append(f"{place}: {problem}")
        else:
            space[key] = domain
    return space


def _section_problems(
    run: RunConfig, section: TuneSection, space: Mapping[str, Domain], document: Document
) -> Iterator[str]:
    """Keys of the section that do not go together, or not with the run."""
    if run.run_id and len(run.run_id) > LONGEST_ID:
        yield f"{document.at('run_id')}: at most {LONGEST_ID} signs for a search: its trials put more behind it"
    if run.data.known:
        yield f"{document.at('data.known')}: a search edits all facts; set it to false"
    if not section.objective:
        yield f"{document.at('tune.objective')}: the list is empty"
    if section.mode == "min" and len(section.objective) > 1:
        yield f"{document.at('tune.mode')}: min needs one metric; a harmonic mean of several is to be large"
    for name in section.objective:
        quantity, protocol = split_name(name)
        parts = parts_of(quantity)
        if not protocol and quantity not in (*SHARES, *AMOUNTS, *SCOPES):
            hint = suggestion(quantity, SHARES) or f" (known: {', '.join(SHARES)}, perplexity)"
            yield f"{document.at('tune.objective')}: '{name}' is no quantity{hint}; other metrics by their full name"
        elif quantity in SHARES and not set(parts) & set(run.evaluation.parts):
            yield f"{document.at('tune.objective')}: '{name}' is not measured: add '{parts[0]}' to evaluation.parts"
        elif quantity in SHARES and protocol and protocol not in run.evaluation.protocols:
            yield f"{document.at('tune.objective')}: '{name}' is not measured: add '{protocol}' to evaluation.protocols"
    if section.searcher == "grid":
        for key, domain in space.items():
            if domain.grid() is None:
                yield f"{document.at(f'tune.space.{key}')}: a grid needs a choice or int, not {domain.kind}"


def _impossible(run: RunConfig, space: Mapping[str, Domain], document: Document) -> Iterator[str]:
    """Values that give no valid config in any combination with the others."""
    base = run.to_dict()
    for key, domain in space.items():
        bad: list[str] = []
        for value in domain.samples():
            problem = _problem(base, {key: value})
            if problem and not any(_problem(base, {**other, key: value}) is None for other in _others(space, key)):
                bad.append(f"{value!r}: {problem}")
        if bad:
            yield f"{document.at(f'tune.space.{key}')}: {bad[0]}" + (f" (and {len(bad) - 1} more)" if bad[1:] else "")


def _others(space: Mapping[str, Domain], key: str) -> Iterator[dict[str, Any]]:
    """Values of the other keys: one key at a time, then combinations; a fixed sample when these are many."""
    rest = {k: Domain("choice", d.samples()) for k, d in space.items() if k != key}
    yield from ({other: value} for other, domain in rest.items() for value in domain.values)
    if len(rest) < 2:
        return
    total = 1
    for domain in rest.values():
        total *= len(domain.values)
    if total <= COMPANIONS:
        yield from grid_points(rest)
        return
    generator = random.Random(key)
    for _ in range(COMPANIONS):
        yield {k: d.draw(generator) for k, d in rest.items()}


def _problem(base: Mapping[str, Any], parameters: Parameters) -> str | None:
    """Why the config with these parameters is impossible; None when it is not."""
    try:
        resolve(Document(_with(base, parameters), "@"))
    except ConfigError as error:
        return error.problems[0].removeprefix("@: ")
    return None


def _with(values: Mapping[str, Any], parameters: Parameters, seed: int | None = None) -> dict[str, Any]:
    found = deepcopy(dict(values))
    for key, value in parameters.items():
        section, _, name = key.partition(".")
        found[section][name] = value
    if seed is not None:
        found["seed"] = seed
    return found
