"""The runs of a comparison or a study as far as configs go: each an ordinary run config under a short name.

Imports no torch: resolving them is what a machine without one does before it submits. Knows nothing of how they are
run (`pipelines.suite.members`).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

from elder.errors import ConfigError, InputError
from elder.options.fields import Settings
from elder.pipelines.config.base import as_yaml
from elder.pipelines.config.checks import RUN_ID
from elder.pipelines.config.document import Document, build
from elder.pipelines.config.run import EditorConfig, RunConfig, fresh_run_id, resolve
from elder.registry import METHODS, method, suggest

S = TypeVar("S", bound=Settings)
LONGEST_NAME = 30  # of a method, as a part of ids


@dataclass(frozen=True)
class Member:
    """One run among several.

    Attributes:
        name: Short, and different from the others'.
        config: Its resolved config; model, cluster and tracking are those of all.
    """

    name: str
    config: RunConfig


class SuiteConfig(Settings):
    """A config of a suite of runs, resolved.

    Attributes:
        run: What all runs share; its `run_id` names the whole for ever.
        members: The runs, in order.
    """

    KIND: ClassVar[str]
    FOLDER: ClassVar[str]

    run: RunConfig
    members: tuple[Member, ...]

    @property
    def root(self) -> str:
        """Its folder in the store."""
        return f"{self.FOLDER}/{self.run.run_id}"

    @abstractmethod
    def method_options(self) -> dict[str, Mapping[str, Any]]:
        """Name of a method -> its options, where files of the user's machine may be named."""

    @abstractmethod
    def with_options(self, run: RunConfig, options: Mapping[str, Mapping[str, Any]]) -> Self:
        """The same to be written down, with another common run and other options; its members are not made anew."""

    @abstractmethod
    def read_back(self) -> SuiteConfig:
        """As whoever reads it from its YAML will have it."""

    def key_of(self, name: str, option: str = "") -> str:
        """The key under which the config says how a run's method edits, or where it says an option of it."""
        return f"{self.KIND}.methods.{name}" + (f".{option}" if option else "")

    def named(self, name: str, error: InputError) -> list[str]:
        """Problems of one run, by the keys of this config."""
        found = []
        for problem in error.problems:
            key, _, rest = problem.partition(": ")
            own = key.startswith("editor.")
            place = self.key_of(name, key.removeprefix("editor.") if own else "")
            found.append(f"{place}: {rest if own else problem}")
        return found

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files."""

    def dump_yaml(self) -> str:
        """The resolved config as YAML, which can be read back."""
        return as_yaml(self.to_dict())

    def digest(self) -> str:
        """sha256 over the digests of the runs."""
        parts = [f"{member.name} {member.config.digest()}" for member in self.members]
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def split(
    document: Document, key: str, model: type[S], problems: list[str]
) -> tuple[dict[str, Any], S, RunConfig | None]:
    """The values that all runs share, the section about the suite, and the run that the values make.

    Nothing is to be registered: the runs are to show which of several adapters is good. The run is None when it
    is wrong; everything that is wrong is added to `problems`.
    """
    values = {name: value for name, value in document.values.items() if name != key}
    if isinstance(values.get("tracking"), Mapping):
        values["tracking"] = {**values["tracking"], "register": None}
    section = build(model, document.values.get(key), document, problems, key)
    return values, section, common_run(values, document, problems)


def common_run(values: Mapping[str, Any], document: Document, problems: list[str]) -> RunConfig | None:
    """The run that all share, from the values without the section about the suite; None when it is wrong."""
    try:
        return resolve(replace(document, values=values))
    except ConfigError as error:
        problems[:0] = error.problems
        return None


def identified(run: RunConfig, document: Document, kind: str, longest: int) -> RunConfig:
    """The run with an id for the whole.

    Raises:
        ConfigError: The given one is too long for what the runs' ids add to it.
    """
    if not document.values.get("run_id"):
        run = run.replace(run_id=fresh_run_id(f"{kind}-{run.name}"[: longest - 29]))
    if len(run.run_id) > longest:
        raise ConfigError(f"{document.at('run_id')}: at most {longest} characters: its runs add to it")
    return run


def member_of(
    name: str,
    method: str,
    values: Mapping[str, Any],
    methods: Mapping[str, Any],
    document: Document,
    key: str,
    problems: list[str],
    fixed: Mapping[str, Any] | None = None,
) -> list[Member]:
    """One run of a suite, or none when it is wrong.

    Options that the config gives in its own `editor` section hold for that method, under any name.

    Args:
        name: Of the run.
        method: As `methods` calls it.
        values: The run's config; its section `editor` is the suite's.
        methods: The section that lists the methods with options of theirs.
        document: Where all of it is written.
        key: Dotted key of that section.
        problems: Receives what is wrong, with the method's options named as the user wrote them.
        fixed: Options that the suite sets.
    """
    own = dict(methods.get(method) or {})
    shared = dict(values.get("editor") or {})
    base, wanted = shared.pop("method", EditorConfig().method), own.pop("method", method)
    editor = {"method": wanted, **(shared if wanted == base else {}), **own, **(fixed or {})}
    places = {f"editor.{o}": document.places.get(f"{key}.{method}.{o}", document.source) for o in own}
    try:
        config = resolve(replace(document, values={**values, "editor": editor}, places={**document.places, **places}))
        return [Member(name, config)]
    except ConfigError as error:
        for problem in error.problems:
            place, _, rest = problem.partition(": ")
            own_words = f"{place}: {key}.{method}.{rest.removeprefix('editor.')}"
            line = own_words if rest.startswith("editor.") else problem
            problems += [line] if line not in problems else []
        return []


def without_registration(run: RunConfig) -> RunConfig:
    """A run of which nothing is registered."""
    return run.replace(tracking=run.tracking.replace(register_as=None))


def method_problems(name: str, own: Any, place: str, known: Sequence[str]) -> list[str]:
    """Problems of one entry of a section of methods."""
    if not isinstance(own, Mapping | None):
        return [f"{place}: expected options of the method, found {own!r}"]
    wanted = (own or {}).get("method", name)
    problems = []
    if not RUN_ID.match(name) or len(name) > LONGEST_NAME:
        problems.append(f"{place}: a name is letters, digits, '.', '_' or '-', at most {LONGEST_NAME}")
    if wanted == name and name not in METHODS:
        return [*problems, f"{place}: there is no method '{name}'{suggest(name, known)}"]
    try:
        method(str(wanted))
    except ConfigError as error:
        problems.append(f"{place}: {error}")
    return problems
