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
    found = [path for name in packages or PACKAGES for path in _python(ROOT / name)]
    return tuple(sorted(path.relative_to(ROOT) for path in found))


def _python(folder: Path) -> Iterator[Path]:
    """The source files below a folder; links to other folders of the house are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name != "__pycache__":
            yield from _python(path)
        elif path.suffix == ".py":
            yield path


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path: Path, typing: bool = False) -> list[Import]:
    """Every import of a file.

    Args:
        path: The file, below the root.
        typing: Take those for type checkers too, which never run.
    """
    return list(_imports(tree(path).body, True, typing))


def _imports(body: list[ast.stmt], eager: bool, typing: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports([*node.body, *node.orelse] if typing else node.orelse, eager, typing)
        else:
            inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for name in ("body", "orelse", "finalbody", "handlers"):
                children = getattr(node, name, [])
                if isinstance(children, list):
                    for child in children:
                        yield from _imports(
                            child.body if isinstance(child, ast.excepthandler) else [child], inside, typing
                        )


def home_of(name: str) -> Path | None:
    """The file of the house that an imported name comes from, or None when it comes from elsewhere.

    The package `elder` holds the other folders too, through links in a checkout.
    """
    parts = name.split(".")
    if parts[0] != "elder":
        return None
    inner = parts[1:] if len(parts) > 1 and parts[1] in PACKAGES else parts
    for length in range(len(inner), 0, -1):
        place = Path(*inner[:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if (ROOT / path).is_file():
                return path
    return None


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
