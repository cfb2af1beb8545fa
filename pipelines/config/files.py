"""Config files: strict YAML with line numbers, overrides from the command line, and the packaged configs.

Knows nothing of which keys there are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

import elder
from elder.datasets.records import capped
from elder.errors import ConfigError, FormerNameWarning
from elder.options.messages import suggestion
from elder.paths import check_plain, user_path
from elder.pipelines.config.document import COMMAND_LINE, Document
from elder.pipelines.config.former import renamed
from elder.pipelines.config.logins import refuse_logins
from elder.pipelines.config.yaml_text import DEEPEST, YamlError, parse_yaml
from elder.texts import HALF, is_writable

C_co = TypeVar("C_co", covariant=True)
OVERRIDE = re.compile(r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*=")


def configs_dir() -> Path:
    """The folder of packaged configs."""
    folder = Path(elder.__file__).parent / "configs"
    if (folder / "demo.yaml").is_file():
        return folder
    raise ConfigError("the packaged configs are missing: install elder again, or give the path of a config file")


def packaged_configs() -> dict[str, Path]:
    """Name (path below configs/, without .yaml) -> file, sorted by name."""
    folder = configs_dir()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


class Load(Protocol[C_co]):
    """Reads a config file or a packaged config."""

    def __call__(self, path_or_name: str, overrides: Sequence[str] = ()) -> C_co:
        """The resolved config.

        Args:
            path_or_name: A YAML file, or the name of a packaged config such as `demo`.
            overrides: Texts such as `editor.lr=2e-5`; values are YAML.

        Raises:
            ConfigError: Everything that is wrong, at once, each with file, line and key.
        """


class Parse(Protocol[C_co]):
    """Reads a config from YAML text, such as the one that a run left in its store."""

    def __call__(self, text: str, source: str = "config.yaml") -> C_co:
        """The resolved config.

        Raises:
            ConfigError: As `Load`.
        """


def readers(resolve: Callable[[Document], C_co]) -> tuple[Load[C_co], Parse[C_co]]:
    """The functions that read a kind of config.

    Args:
        resolve: Makes the config of a document; raises `ConfigError` with everything that is wrong.
    """

    def load(path_or_name: str, overrides: Sequence[str] = ()) -> C_co:
        return resolve(read_document(path_or_name, overrides))

    def parse(text: str, source: str = "config.yaml") -> C_co:
        return resolve(parse_document(text, source))

    return load, parse


def find_config(path_or_name: str) -> Path:
    """A config file by path, or a packaged one by name (`demo`, `configs/paper/elder_gpt2xl_zsre.yaml`).

    Raises:
        ConfigError: There is neither such a file nor such a name.
    """
    path = user_path(path_or_name, ConfigError)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or not path.is_dir():  # a directory may have the name of a packaged config
        check_plain(path, ConfigError)
    packaged = packaged_configs()
    name = path_or_name.removeprefix("configs/")
    name = name.removesuffix(".yaml").removesuffix(".yml")
    if name in packaged:
        return packaged[name]
    check_plain(path, ConfigError)
    hint = _beside(path) or suggestion(name, packaged) or f" (packaged: {', '.join(packaged)})"
    raise ConfigError(f"{path_or_name}: no such config file, and no packaged config of that name{hint}")


def _beside(path: Path) -> str:
    """The tail of an error about a missing file: the YAML file there that has nearly its name, if any."""
    try:
        there = sorted(str(one) for one in path.parent.iterdir() if one.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    return suggestion(str(path), there)


def read_document(path_or_name: str, overrides: Sequence[str] = ()) -> Document:
    """A YAML file, or a packaged config, with overrides such as `editor.lr=2e-5` laid over it.

    Raises:
        ConfigError: There is none, it cannot be read, is not YAML, names a key twice, or an override is malformed.
    """
    path = find_config(path_or_name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    document = with_overrides(parse_document(text, str(path)), overrides)
    for note in document.notes:
        warnings.warn(note, FormerNameWarning, stacklevel=1)
    return document


def parse_document(text: str, source: str) -> Document:
    """The mapping that a YAML text holds, with the place `source:line` of every key.

    Raises:
        ConfigError: It is not YAML, not a mapping, names keys twice, or an address in it holds a password.
    """
    try:
        node, read = parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{source}{f':{error.line}' if error.line else ''}: {error}") from error
    values = _with_text_keys(read)
    if values is None:
        return Document({}, source)
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}: expected keys and values at the top, found a {type(values).__name__}")
    places: dict[str, str] = {}
    problems = []
    for key, number in _keys(node, ""):
        if key in places:
            problems.append(f"{source}:{number}: {key}: duplicate key (first at {places[key]})")
        places[key] = f"{source}:{number}"
    if problems:
        raise ConfigError(capped(problems))
    return refuse_logins(renamed(Document(values, source, places)))


def _with_text_keys(value: Any) -> Any:
    """YAML reads the keys `5` and `null` as what they look like; every key of a config is text."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


def _keys(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        yield key, key_node.start_mark.line + 1
        if isinstance(value_node, yaml.MappingNode):
            yield from _keys(value_node, f"{key}.")


def with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with `key.sub=value` laid over it; values are YAML, later ones win.

    Raises:
        ConfigError: An override is not of that form, all of them are named; or an address holds a password.
    """
    values = deepcopy(dict(document.values))
    places, raw = dict(document.places), dict(document.raw)
    problems: list[str] = []
    for override in overrides:
        if not OVERRIDE.match(override):
            problems.append(f"command line: '{override}' is not of the form key.sub=value")
            continue
        if not is_writable(override):
            problems.append(f"command line: {override!a} holds {HALF}, or bytes that are no UTF-8")
            continue
        key, text = override.split("=", 1)
        if key.count(".") >= DEEPEST:
            problems.append(f"command line: '{key[:40]}...' is no key: it has {key.count('.') + 1} parts")
            continue
        try:
            value = _with_text_keys(parse_yaml(text)[1])
        except YamlError:
            value = text  # such as an unquoted '@' or ': ' in a path
        problem = _put(values, key, value)
        if problem:
            problems.append(f"command line: {key}: {problem}")
        places[key], raw[key] = COMMAND_LINE, text
    if problems:
        raise ConfigError(problems)
    return refuse_logins(renamed(replace(document, values=values, places=places, raw=raw)))


def _put(values: dict[str, Any], key: str, value: Any) -> str | None:
    *parents, last = key.split(".")
    at = values
    for name in parents:
        if at.get(name) is None:
            at[name] = {}
        if not isinstance(at[name], dict):
            return f"'{name}' holds a value, not keys"
        at = at[name]
    at[last] = value
    return None
