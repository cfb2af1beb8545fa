"""What pyproject.toml declares, and what comes with it: the packages that an installation with some extras has."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@cache
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def declared(extra: str | None = None) -> list[Requirement]:
    """The requirements of the package itself, or of an extra; those that name an extra of ours are followed."""
    given = project()["dependencies"] if extra is None else project()["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, given):
        if requirement.name == "elder":
            found += [inner for name in sorted(requirement.extras) for inner in declared(name)]
        else:
            found.append(requirement)
    return found


def names(requirements: Iterable[Requirement]) -> set[str]:
    """Names of distributions as registries write them."""
    return {canonicalize_name(requirement.name) for requirement in requirements}


@cache
def installed_by(*extras: str) -> frozenset[str]:
    """Every distribution that `pip install elder[EXTRAS]` brings, as far as it is installed here."""
    waiting = [*declared(), *(one for extra in extras for one in declared(extra))]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            found.add(name)
            for needed in map(Requirement, needs):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return frozenset(found)


@cache
def _providers() -> dict[str, frozenset[str]]:
    found = importlib.metadata.packages_distributions()
    return {package: frozenset(map(canonicalize_name, made_by)) for package, made_by in found.items()}


def providers(package: str) -> frozenset[str]:
    """The distributions that provide an import name; for one that is not here, the one that is called like it."""
    return _providers().get(package, frozenset({canonicalize_name(package)}))


def absent_without(*extras: str) -> list[str]:
    """Import names that are here and would not be after `pip install elder[EXTRAS]`."""
    there = installed_by(*extras)
    return sorted(package for package, found in _providers().items() if not found & there and package != "elder")
