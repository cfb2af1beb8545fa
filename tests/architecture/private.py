"""Private names of other objects that tests use, counted in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import ROOT, tree

DATA = Path("tests/data/logged_model")  # a file of an earlier version, as MLflow kept it
BY_NAME = ("getattr", "setattr", "delattr", "patch", "object")  # functions that take names as texts
PUBLIC = ("_replace", "_asdict", "_fields", "_make")  # of named tuples


def test_files() -> list[Path]:
    """All source files of the tests, as paths below the root."""
    found = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
    return [path for path in found if DATA not in path.parents]


test_files.__test__ = False  # type: ignore[attr-defined]


def private_names(path: Path) -> list[str]:
    """`LINE: what`, for every use of a name that begins with one underscore and is not of the object itself."""
    return [f"{line}: {what}" for line, what in sorted(_uses(tree(path)))]


def _uses(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            if _is_private(node.attr) and not _is_own(node.value):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if _is_private(alias.name)]
            if names or any(map(_is_private, (node.module or "").split("."))):
                yield node.lineno, f"from {node.module} import {', '.join(names) or '...'}"
        elif isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name) for alias in node.names if any(map(_is_private, alias.name.split(".")))
            )
        elif isinstance(node, ast.Call) and _called(node) in BY_NAME:
            texts = [
                given.value for given in node.args if isinstance(given, ast.Constant) and isinstance(given.value, str)
            ]
            yield from ((node.lineno, text) for text in texts if any(map(_is_private, text.split("."))))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def _is_own(value: ast.expr) -> bool:
    """`self._x`, `cls._x` or `super()._x`."""
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "super")


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
