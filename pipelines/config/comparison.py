"""The config of a comparison: an ordinary run config, the methods to be compared, and their options beside it.

Every method gets a run config that differs in method and options alone; all of them are checked before
anything starts. Imports no torch. Knows nothing of how runs are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from elder.errors import ConfigError
from elder.options.fields import Count, OneOf, Settings, setting
from elder.pipelines.config.document import Document
from elder.pipelines.config.files import read_document, readers
from elder.pipelines.config.run import EditorConfig, RunConfig
from elder.pipelines.config.strategies import BATCHED, STRATEGIES, stream_of
from elder.pipelines.config.suite import (
    LONGEST_NAME,
    Member,
    SuiteConfig,
    identified,
    member_of,
    method_problems,
    split,
    without_registration,
)
from elder.registry import METHODS

SECTION = "compare"
LONGEST_ID = 100 - LONGEST_NAME - 1


class CompareSection(Settings):
    """The methods, and how they are compared."""

    methods: Mapping[str, Any] = setting(
        {},
        "Methods by name with options of theirs: `memit: {ridge: 100}`. A name of your own names its method: "
        "`memit-plain: {method: memit, cache: false}`. Options in `editor` hold for the method that is named there.",
    )
    strategy: Annotated[str, OneOf(STRATEGIES)] = setting(
        BATCHED,
        "`sequential-batched`: the stream as configured; `sequential`: batches of one; `batch`: all edits in one "
        "batch; `single`: each edit alone on the unedited model.",
    )
    parallel: Count | None = setting(
        None, "Methods at the same time on a Ray cluster; `null`: as many as it has room for."
    )


class CompareConfig(SuiteConfig):
    """A whole comparison: a run for each method.

    Attributes:
        compare: The section `compare`.
    """

    KIND = SECTION
    FOLDER = "compares"

    compare: CompareSection

    @property
    def compare_id(self) -> str:
        """Names the comparison for ever."""
        return self.run.run_id

    def method_options(self) -> dict[str, Mapping[str, Any]]:
        """See `SuiteConfig.method_options`."""
        return {member.name: member.config.editor.options for member in self.members}

    def with_options(self, run: RunConfig, options: Mapping[str, Mapping[str, Any]]) -> Self:
        """See `SuiteConfig.with_options`."""
        members = []
        for member in self.members:
            editor = EditorConfig(method=member.config.editor.method, options=options[member.name])
            members.append(Member(member.name, member.config.replace(editor=editor)))
        return self.replace(run=run, members=tuple(members))

    def read_back(self) -> CompareConfig:
        """See `SuiteConfig.read_back`."""
        return parse_compare_config(self.dump_yaml())

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files, with every option of every method."""
        options = self.method_options()
        editors = {m.name: {"method": m.config.editor.method, **options[m.name]} for m in self.members}
        return {**self.run.to_dict(), SECTION: {**self.compare.model_dump(mode="json"), "methods": editors}}


def load_compare_config(path_or_name: str, overrides: Sequence[str] = (), methods: Sequence[str] = ()) -> CompareConfig:
    """Read a config and lay overrides over it.

    Args:
        path_or_name: A YAML file, or the name of a packaged config.
        overrides: Texts such as `compare.methods.memit.ridge=100`; values are YAML.
        methods: Which methods, by name or by their names in `compare.methods`; empty: all of that section.

    Raises:
        ConfigError: Everything that is wrong, at once, each with file, line and key.
    """
    return resolve_compare(read_document(path_or_name, overrides), methods)


def resolve_compare(document: Document, methods: Sequence[str] = ()) -> CompareConfig:
    """Check a document against the schema and make the run of every method.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    problems: list[str] = []
    values, section, run = split(document, SECTION, CompareSection, problems)
    chosen = tuple(methods) or tuple(section.methods)
    problems += _names(chosen, methods, section, document)
    if problems or run is None:
        raise ConfigError(problems)
    run = identified(run, document, SECTION, LONGEST_ID)
    try:
        stream = stream_of(section.strategy, values.get("stream") or {}, (values.get("data") or {}).get("edits"))
    except ValueError as error:
        raise ConfigError(f"{document.at('compare.strategy')}: {error}") from error
    members: list[Member] = []
    for name in chosen:
        own = {**values, "stream": stream, "run_id": f"{run.run_id}-{name}", "name": f"{run.name} {name}"}
        members += member_of(name, name, own, section.methods, document, f"{SECTION}.methods", problems)
    if problems:
        raise ConfigError(problems)
    return CompareConfig(run=without_registration(run), members=tuple(members), compare=section)


_, parse_compare_config = readers(resolve_compare)


def _names(chosen: Sequence[str], asked: Sequence[str], section: CompareSection, document: Document) -> list[str]:
    """Problems of the choice of methods."""
    if not chosen:
        return [f"{document.source}: no methods to compare: give --methods a,b or the section compare.methods"]
    problems = [] if len(set(chosen)) == len(chosen) else ["--methods: names a method twice"]
    for name in chosen:
        key = f"{SECTION}.methods.{name}"
        place = document.at(key) if name in section.methods else f"--methods: {name}"
        problems += method_problems(name, section.methods.get(name), place, [*METHODS, *section.methods])
    return problems
