"""Manners that a machine can check: sizes, names, docstrings, annotations, words that have one home."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import ROOT, code_words, modules, tree

BACKEND_WORDS = re.compile(r"(?<![a-z])(cuda|nccl|gloo)(?![a-z])", re.IGNORECASE)
LONGEST_FILE, LONGEST_LINE = 450, 120
FORBIDDEN_NAMES = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}


def test_backends_are_named_in_one_file() -> None:
    bad = [
        f"{path}:{line}: {word.strip()[:60]}"
        for path in modules()
        if path != Path("elder/device.py")
        for line, word in code_words(path)
        if BACKEND_WORDS.search(word.replace("_", " "))
    ]
    assert bad == []


def test_files_are_small_and_named_after_their_subject() -> None:
    every = [*modules(), *(p.relative_to(ROOT) for p in (ROOT / "tests").rglob("*.py"))]
    long = {str(path): n for path in every if (n := len((ROOT / path).read_text().splitlines())) > LONGEST_FILE}
    assert long == {}
    assert [str(path) for path in every if path.name in FORBIDDEN_NAMES] == []


def test_modules_begin_with_what_they_do() -> None:
    assert [str(path) for path in modules() if not ast.get_docstring(tree(path))] == []


def test_package_files_hold_a_docstring_only() -> None:
    busy = [
        str(path)
        for path in modules()
        if path.name == "__init__.py" and path != Path("elder/__init__.py") and not _is_bare(tree(path))
    ]
    assert busy == []


def _is_bare(module: ast.Module) -> bool:
    """A docstring, and at most names fetched lazily: no import that runs, no call."""
    for node in module.body:
        if isinstance(
            node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.If
        ):
            eager = isinstance(node, ast.Import | ast.ImportFrom) and not _is_light(node)
            calls = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            if eager or calls:
                return False
        else:
            return False
    return True


def _is_light(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return all(name in ("__future__", "typing", "types", "importlib", "collections.abc") for name in names)


def test_public_functions_and_classes_are_documented_and_typed() -> None:
    bad = []
    for path in modules():
        for owner, node in _public(tree(path)):
            name = f"{path}:{node.lineno} {owner}{node.name}"
            if not ast.get_docstring(node) and not _inherited(node):
                bad.append(f"{name}: no docstring")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is None:
                bad.append(f"{name}: no return type")
    assert bad == []


def _public(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield "", node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.", inner


def _inherited(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(
        "override" in ast.unparse(item) or "overload" in ast.unparse(item) or ".setter" in ast.unparse(item)
        for item in decorators
    )


def test_no_module_names_a_machine_or_keeps_notes_to_itself() -> None:
    pattern = re.compile(r"/(?:home|root|work)/\w|\bTODO\b|\bFIXME\b|\bXXX\b")
    bad = []
    for path in [*modules(), *(p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*.yaml"))]:
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                bad.append(f"{path}:{number}: {line.strip()[:80]}")
    assert bad == []
