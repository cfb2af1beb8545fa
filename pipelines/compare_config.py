"""The config of a comparison: an ordinary run config, the methods to be compared, and their options beside it.

Every method gets a run config of its own that differs in method and options alone; all of them are checked before
anything starts. Imports no torch. Knows nothing of how runs are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from elder.errors import ConfigError
from elder.registry import METHODS, method, suggest
from pipelines.config import RunConfig, fresh_run_id, resolve
from pipelines.config_checks import RUN_ID, plain
from pipelines.config_files import find_config, parse_yaml, read_document
from pipelines.fleet import Member
from pipelines.schema import Document, build, setting
from pipelines.strategies import BATCHED, STRATEGIES, stream_of

SECTION = "compare"
LONGEST_NAME = 30
LONGEST_ID = 100 - LONGEST_NAME - 1


@dataclass(frozen=True)
class CompareSection:
    """What is compared."""

    methods: Mapping[str, Any] = setting(
        dict,
        "Methods by name with options of theirs: `memit: {ridge: 100}`. A name of your own names its method: "
        "`memit-plain: {method: memit, cache: false}`. Options in `editor` hold for the method that stands there.",
    )
    strategy: str = setting(
        BATCHED,
        "`sequential-batched`: the stream as configured; `sequential`: batches of one; `batch`: all edits in one "
        "batch; `single`: each edit alone on the unedited model.",
        choices=STRATEGIES,
    )
    parallel: int | None = setting(
        None, "Methods at the same time on a Ray cluster; `null`: as many as it has room for.", low=1
    )


@dataclass(frozen=True)
class CompareConfig:
    """A whole comparison, resolved.

    Attributes:
        run: The config that all methods share; its `run_id` is the id of the comparison.
        compare: The section `compare`.
        members: A run for each method, in order.
    """

    run: RunConfig
    compare: CompareSection
    members: tuple[Member, ...]

    @property
    def compare_id(self) -> str:
        """Names the comparison for ever."""
        return self.run.run_id

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the layout of the YAML files, with every option of every method."""
        section = dataclasses.asdict(self.compare)
        editors = {m.name: {"method": m.config.editor.method, **m.config.editor.options} for m in self.members}
        return {**self.run.to_dict(), SECTION: plain({**section, "methods": editors})}

    def dump_yaml(self) -> str:
        """The resolved config as YAML; `parse_compare_config` reads it back."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def digest(self) -> str:
        """sha256 over the digests of the runs."""
        parts = [f"{member.name} {member.config.digest()}" for member in self.members]
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def load_compare_config(path_or_name: str, overrides: Sequence[str] = (), methods: Sequence[str] = ()) -> CompareConfig:
    """Read a config and lay overrides over it.

    Args:
        path_or_name: A YAML file, or the name of a packaged config.
        overrides: Texts such as `compare.methods.memit.ridge=100`; values are YAML.
        methods: Which methods, by name or by their names in `compare.methods`; empty: all of that section.

    Raises:
        ConfigError: Everything that is wrong, at once, each with file, line and key.
    """
    return resolve_compare(read_document(find_config(path_or_name), overrides), methods)


def parse_compare_config(text: str, source: str = "config.yaml") -> CompareConfig:
    """Read a comparison from YAML text.

    Raises:
        ConfigError: As `load_compare_config`.
    """
    values, places = parse_yaml(text, source)
    return resolve_compare(Document(values, source, places))


def resolve_compare(document: Document, methods: Sequence[str] = ()) -> CompareConfig:
    """Check a document against the schema and make the run of every method.

    Raises:
        ConfigError: Everything that is wrong, at once.
    """
    values = unregistered({key: value for key, value in document.values.items() if key != SECTION})
    problems: list[str] = []
    section = build(CompareSection, document.values.get(SECTION), document, problems, SECTION)
    run: RunConfig | None = None
    try:
        run = resolve(dataclasses.replace(document, values=values))
    except ConfigError as error:
        problems[:0] = error.problems
    chosen = tuple(methods) or tuple(section.methods)
    problems += _names(chosen, methods, section, document)
    if problems or run is None:
        raise ConfigError(problems)
    if not document.values.get("run_id"):
        run = dataclasses.replace(run, run_id=fresh_run_id(f"compare-{run.name}"))
    if len(run.run_id) > LONGEST_ID:
        raise ConfigError(f"{document.at('run_id')}: at most {LONGEST_ID} signs: the methods' runs put more behind it")
    members = [member_of(name, run.run_id, values, section, document, problems) for name in chosen]
    if problems:
        raise ConfigError(problems)
    run = dataclasses.replace(run, tracking=dataclasses.replace(run.tracking, register=None))
    return CompareConfig(run, section, tuple(member for member in members if member is not None))


def unregistered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with nothing to be registered: which of several adapters is good is what they are to tell."""
    tracking = values.get("tracking")
    return {**values, "tracking": {**tracking, "register": None}} if isinstance(tracking, Mapping) else dict(values)


def member_of(
    name: str,
    whole_id: str,
    values: Mapping[str, Any],
    section: CompareSection,
    document: Document,
    problems: list[str],
) -> Member | None:
    """The run of one method; what is wrong with it is added to `problems`."""
    try:
        stream = stream_of(section.strategy, values.get("stream") or {}, (values.get("data") or {}).get("edits"))
    except ValueError as error:
        text = f"{document.at('compare.strategy')}: {error}"
        problems += [text] if text not in problems else []
        return None
    editor, places = editor_of(name, values, section.methods, document, f"{SECTION}.methods")
    own = {**values, "editor": editor, "stream": stream, "run_id": f"{whole_id}-{name}"}
    own["name"] = f"{values.get('name') or RunConfig().name} {name}"
    try:
        return Member(name, resolve(dataclasses.replace(document, values=own, places=places)))
    except ConfigError as error:
        fresh = [problem for problem in renamed(error, name, editor, f"{SECTION}.methods") if problem not in problems]
        problems += fresh
        return None


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


def _names(chosen: Sequence[str], asked: Sequence[str], section: CompareSection, document: Document) -> list[str]:
    """What is wrong with the choice of methods."""
    if not chosen:
        return [f"{document.source}: no methods to compare: give --methods a,b or the section compare.methods"]
    problems = [] if len(set(chosen)) == len(chosen) else ["--methods: names a method twice"]
    for name in chosen:
        key = f"{SECTION}.methods.{name}"
        place = document.at(key) if name in section.methods else f"--methods: {name}"
        problems += method_problems(name, section.methods.get(name), place, [*METHODS, *section.methods])
    return problems


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
