"""The runs of a comparison or a study as far as configs go: each an ordinary run config under a short name.

Imports no torch: resolving them is what a machine without one does before it submits. Knows nothing of how they are
run (`pipelines.suite.members`).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from elder.errors import ConfigError, InputError
from elder.options.fields import Settings
from elder.pipelines.config.base import as_yaml
from elder.pipelines.config.checks import RUN_ID
from elder.pipelines.config.document import Document
from elder.pipelines.config.run import RunConfig, resolve
from elder.registry import METHODS, method, suggest

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
        """What is wrong with one run, by the keys of this config."""
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


def common_run(values: Mapping[str, Any], document: Document, problems: list[str]) -> RunConfig | None:
    """The run that all share, from the values without the section about the suite; None when it is wrong."""
    try:
        return resolve(replace(document, values=values))
    except ConfigError as error:
        problems[:0] = error.problems
        return None


def unregistered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with nothing to be registered: which of several adapters is good is what they are to tell."""
    tracking = values.get("tracking")
    return {**values, "tracking": {**tracking, "register": None}} if isinstance(tracking, Mapping) else dict(values)


def without_registration(run: RunConfig) -> RunConfig:
    """A run of which nothing is registered."""
    return run.replace(tracking=run.tracking.replace(register_as=None))


def editor_of(
    name: str, values: Mapping[str, Any], methods: Mapping[str, Any], document: Document, key: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The section `editor` of one method, and where every key of it stands.

    Options that the config gives in its own `editor` section hold for that method, under any name.
    """
    own = dict(methods.get(name) or {})
    wanted = own.pop("method", name)
    shared = dict(values.get("editor") or {})
    base = shared.pop("method", RunConfig().editor.method)
    editor = {"method": wanted, **(shared if wanted == base else {}), **own}
    places = dict(document.places)
    places |= {f"editor.{option}": document.places.get(f"{key}.{name}.{option}", document.source) for option in own}
    return editor, places


def renamed(error: ConfigError, name: str, editor: Mapping[str, Any], key: str) -> list[str]:
    """The problems of a member's config, with the method's own keys as the user wrote them."""
    found = []
    for problem in error.problems:
        place, _, rest = problem.partition(": ")
        found.append(f"{place}: {key}.{name}.{rest.removeprefix('editor.')}" if rest.startswith("editor.") else problem)
    return found


def method_problems(name: str, own: Any, place: str, known: Sequence[str]) -> list[str]:
    """What is wrong with one entry of a section of methods."""
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
