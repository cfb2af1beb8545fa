"""The config of a study: parts, each a row of edit runs over methods, strategies and values of one axis.

Every run is an ordinary run config, checked before anything starts. Imports no torch. Knows nothing of how runs are
done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from elder.errors import ConfigError
from elder.options.fields import Count, Listed, Natural, OneOf, Settings, Text, setting
from elder.pipelines.config.checks import RUN_ID
from elder.pipelines.config.document import Document
from elder.pipelines.config.files import readers
from elder.pipelines.config.run import RunConfig, StreamConfig
from elder.pipelines.config.strategies import BATCH, BATCHED, SEQUENTIAL, SINGLE, STRATEGIES
from elder.pipelines.config.suite import (
    Member,
    SuiteConfig,
    identified,
    member_of,
    method_problems,
    split,
    without_registration,
)
from elder.registry import METHODS

SECTION = "study"
SHORT = {SINGLE: "single", BATCH: "batch", SEQUENTIAL: "seq", BATCHED: "sb"}
LONGEST_ID = 50


class Part(Settings):
    """One row of runs."""

    axis: Literal["batch_size", "layers"] = setting(
        "batch_size", "What the values are: sizes of batches, or blocks that are edited."
    )
    values: Listed[Natural] = setting((), "The values, each a run for every method and strategy.")
    strategies: Listed[Annotated[str, OneOf(STRATEGIES)]] = setting(
        (BATCH,),
        "`single`: each edit alone; `batch`: every batch alone on the unedited model; `sequential`: batches of one on "
        "one model (one run, whatever the values); `sequential-batched`: batches on one model.",
    )
    methods: Listed[Text] = setting((), "Which methods; empty: all of `study.methods`.")
    edits: Count = setting(100, "Edits of each run; at least one whole batch.")


class StudySection(Settings):
    """The parts of a study, and what it quotes."""

    methods: Mapping[str, Any] = setting({}, "Methods by name with options of theirs, as in `compare.methods`.")
    parts: Mapping[str, Part] = setting({}, "Parts by name: `axis`, `values`, `strategies`, `methods`, `edits`.")
    published: Text | None = setting(
        None, "Name of a file of published figures beside the packaged studies; quoted beside ours, never mixed."
    )
    parallel: Count | None = setting(
        None, "Runs at the same time on a Ray cluster; `null`: as many as it has room for."
    )


@dataclass(frozen=True)
class Place:
    """The place of a run in a study."""

    part: str
    axis: str
    method: str
    strategy: str
    value: int


class StudyConfig(SuiteConfig):
    """A whole study.

    Attributes:
        study: The section `study`.
        places: Name of a run -> its place.
    """

    KIND = SECTION
    FOLDER = "studies"

    study: StudySection
    places: Mapping[str, Place]

    @property
    def study_id(self) -> str:
        """Names the study for ever."""
        return self.run.run_id

    def key_of(self, name: str, option: str = "") -> str:
        """As `SuiteConfig.key_of`; blocks are the values of a part whose axis they are."""
        place = self.places[name]
        if option == place.axis:
            return f"{SECTION}.parts.{place.part}.values"
        return super().key_of(place.method, option)

    def method_options(self) -> dict[str, Mapping[str, Any]]:
        """See `SuiteConfig.method_options`."""
        return {name: dict(own or {}) for name, own in self.study.methods.items()}

    def with_options(self, run: RunConfig, options: Mapping[str, Mapping[str, Any]]) -> Self:
        """See `SuiteConfig.with_options`."""
        study = self.study.replace(methods=options)
        return self.replace(run=run, study=study)

    def read_back(self) -> StudyConfig:
        """See `SuiteConfig.read_back`."""
        return parse_study_config(self.dump_yaml())

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files."""
        return {**self.run.to_dict(), SECTION: self.study.model_dump(mode="json")}


def resolve_study(document: Document) -> StudyConfig:
    """Check a document against the schema and make every run.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    if SECTION not in document.values:
        raise ConfigError(f"{document.source}: has no section '{SECTION}', so there is nothing to study")
    problems: list[str] = []
    values, section, run = split(document, SECTION, StudySection, problems)
    problems += _problems(section, document, bool(problems))
    if problems or run is None:
        raise ConfigError(problems)
    run = identified(run, document, SECTION, LONGEST_ID)
    places = {_name(place): place for name, part in section.parts.items() for place in _places(name, part, section)}
    members: list[Member] = []
    for name, place in places.items():
        own = _values(place, section.parts[place.part], values, run.stream)
        own |= {"run_id": f"{run.run_id}-{name}", "name": f"{run.name} {name}"}
        fixed = {"layers": [place.value]} if place.axis == "layers" else {}
        members += member_of(name, place.method, own, section.methods, document, "study.methods", problems, fixed)
    if problems:
        raise ConfigError(problems)
    return StudyConfig(run=without_registration(run), members=tuple(members), study=section, places=places)


load_study_config, parse_study_config = readers(resolve_study)


def _places(name: str, part: Part, section: StudySection) -> list[Place]:
    """The runs of a part; strategies with batches of one have one run, wherever the axis is the size of batches."""
    found = []
    for method in part.methods or tuple(section.methods):
        for strategy in part.strategies:
            ones = part.axis == "batch_size" and strategy in (SINGLE, SEQUENTIAL)
            for value in (1,) if ones else part.values:
                found.append(Place(name, part.axis, method, strategy, value))
    return found


def _name(place: Place) -> str:
    letter = "b" if place.axis == "batch_size" else "l"
    return f"{place.part}-{place.method}-{SHORT[place.strategy]}-{letter}{place.value:04d}"


def _values(place: Place, part: Part, values: Mapping[str, Any], common: StreamConfig) -> dict[str, Any]:
    """The sections of a run that differ from the study's, beside the method."""
    sizes = {SINGLE: 1, SEQUENTIAL: 1, BATCH: part.edits, BATCHED: common.batch_size}
    batch = sizes[place.strategy]
    if place.axis == "batch_size" and place.strategy in (BATCH, BATCHED):
        batch = place.value
    stage_size = batch * -(-common.stage_size // batch)
    stream = {**(values.get("stream") or {}), "batch_size": batch, "stage_size": stage_size}
    if place.strategy in (SINGLE, BATCH):
        stream["strategy"] = "isolated"
    data = {**(values.get("data") or {}), "edits": max(part.edits, batch)}
    return {**values, "data": data, "stream": stream}


def _problems(section: StudySection, document: Document, wrong: bool) -> list[str]:
    problems = []
    if not section.methods:
        problems.append(f"{document.at('study.methods')}: names no methods")
    if not section.parts and not wrong:
        problems.append(f"{document.at('study.parts')}: names no parts")
    for name, own in section.methods.items():
        place = document.at(f"study.methods.{name}")
        problems += method_problems(name, own, place, [*METHODS, *section.methods])
    for name, part in section.parts.items():
        key = f"study.parts.{name}"
        if not RUN_ID.match(name) or len(name) > 12:
            problems.append(f"{document.at(key)}: a name is letters, digits, '.', '_' or '-', at most 12")
        if not part.values:
            problems.append(f"{document.at(f'{key}.values')}: the list is empty")
        if part.axis == "batch_size" and 0 in part.values:
            problems.append(f"{document.at(f'{key}.values')}: a batch has at least one edit")
        for method in part.methods:
            if method not in section.methods:
                problems.append(f"{document.at(f'{key}.methods')}: '{method}' is not in study.methods")
    return problems
