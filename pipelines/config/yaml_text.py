"""The one reader of YAML. It refuses what PyYAML accepts and nobody can mean, or what ends there in a raw exception.

A date is the text that was written. Refused are: tags such as `!!set`, values that do not fit their tag, mappings that
contain themselves, aliases that multiply, nesting without end, numbers beyond all floats, and texts that no file can
hold. Knows nothing of which keys there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from elder.json_text import MOST_DIGITS
from elder.texts import HALF, is_writable

DEEPEST = 40  # sections and lists inside of each other; a config has four
MOST_NODES = 100_000  # values of one text, aliases counted as often as they are used
CORE = "tag:yaml.org,2002:"
KINDS = {
    yaml.ScalarNode: ("str", "int", "float", "bool", "null", "merge"),
    yaml.SequenceNode: ("seq",),
    yaml.MappingNode: ("map",),
}
"""The tags that each kind of node may have."""


class YamlError(ValueError):
    """What is wrong with a YAML text.

    Attributes:
        line: Where, from 1; None where PyYAML does not say it.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number, as YAML 1.2 does, and a date as text."""

    yaml_implicit_resolvers = {  # as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in found if tag != f"{CORE}timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    f"{CORE}float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """The values of a YAML text, with the nodes that know their lines; None, None for an empty text.

    Raises:
        YamlError: It is no YAML, or holds something that is refused (see above).
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _measure(node, {}, ())
        own = _Loader(text).get_single_node() if "<<" in text else node  # merging changes the nodes
        return node, loader.construct_document(own)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise YamlError(f"not YAML: {reason}", mark.line + 1 if mark else None) from error
    except RecursionError as error:
        raise YamlError(f"it is nested more than {DEEPEST} deep") from error
    except YamlError:
        raise
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, such as "\\UFFFFFFFF"
        raise YamlError(f"not YAML: {error}") from error


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]], above: tuple[yaml.Node, ...]) -> tuple[int, int]:
    """How many values a node stands for, and how deep they are nested.

    Raises:
        YamlError: It, or one below it, is refused.
    """
    line = node.start_mark.line + 1
    if node in above:
        raise YamlError("an alias (*name) leads back into what it names", line)
    if node not in known:
        kind = node.tag.removeprefix(CORE)
        if kind not in KINDS[type(node)]:
            raise YamlError(f"the tag {node.tag.replace(CORE, '!!')} is not taken here", line)
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, kind, line)
        inside = [] if len(above) > DEEPEST else [_measure(inner, known, (*above, node)) for inner in _inside(node)]
        size = 1 + sum(size for size, _ in inside)
        height = 1 + max((height for _, height in inside), default=0)
        if size > MOST_NODES:
            raise YamlError(f"it holds more than {MOST_NODES:,} values", line)
        known[node] = size, height
    if len(above) + known[node][1] > DEEPEST:
        raise YamlError(f"it is nested more than {DEEPEST} deep", line)
    return known[node]


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    for item in () if isinstance(node, yaml.ScalarNode) else node.value:
        yield from item if isinstance(item, tuple) else (item,)


def _check_scalar(node: yaml.ScalarNode, kind: str, line: int) -> None:
    """Refuse a value that does not fit its tag, or that nothing can hold."""
    if len(node.value) > MOST_DIGITS and kind in ("int", "float"):
        raise YamlError(f"a number has {len(node.value)} characters, at most {MOST_DIGITS} are taken", line)
    if not is_writable(node.value):
        raise YamlError(f"it holds {HALF}", line)
    try:
        value = None if kind == "merge" else _Loader("").construct_object(node)  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, OverflowError) as error:
        raise YamlError(f"{node.value!r} is no {kind}", line) from error
    if isinstance(value, float) and math.isinf(value) and node.value.strip("+-").lower() != ".inf":
        raise YamlError(f"the number {node.value[:20]} is too large", line)
