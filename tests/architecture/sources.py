"""Reading the tree as source, for the rules. Imports none of it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("elder", "pipelines", "infra", "jobs")


@dataclass(frozen=True)
class Import:
    """One import: what (dotted), where (line), and whether it runs when the module is imported."""

    name: str
    line: int
    eager: bool


@cache
def modules(*packages: str) -> tuple[Path, ...]:
    """All source files of packages, as paths below the root."""
    found = [path for name in packages or PACKAGES for path in (ROOT / name).rglob("*.py")]
    return tuple(sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> list[Import]:
    """Every import of a file. Those for type checkers only are left out: they never run."""
    return list(_imports(tree(path).body, eager=True))


def _imports(body: list[ast.stmt], eager: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, eager)
        else:
            inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for name in ("body", "orelse", "finalbody", "handlers"):
                children = getattr(node, name, [])
                if isinstance(children, list):
                    for child in children:
                        yield from _imports(child.body if isinstance(child, ast.excepthandler) else [child], inside)


def within(name: str, *prefixes: str) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def code_words(path: Path) -> Iterator[tuple[int, str]]:
    """Names and strings of a file with their lines; comments and docstrings are left out."""
    docstrings = {
        (node.body[0].value.lineno, node.body[0].value.col_offset)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
        and isinstance(node.body[0].value.value, str)
    }
    text = (ROOT / path).read_text(encoding="utf-8")
    middle = getattr(tokenize, "FSTRING_MIDDLE", -1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.STRING, middle) and token.start not in docstrings:
            yield token.start[0], token.string
