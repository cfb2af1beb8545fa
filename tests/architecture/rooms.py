"""The rooms of the house, and what each may import. CONTRIBUTING.md shows the same table."""

from __future__ import annotations

from pathlib import Path

# Files in `elder/` itself are of two kinds: what everything stands on, and the doors through which users come in.
DOORS = frozenset({"__init__", "adapter", "export", "harness", "wrapping"})

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "elder/options": (),
    "elder": ("elder/options",),
    "elder/solvers": ("elder",),
    "elder/edited": ("elder",),
    "elder/world": ("elder",),
    "elder/geography": ("elder",),
    "elder/datasets": ("elder", "elder/geography", "elder/world"),
    "elder/models": ("elder", "elder/world"),
    "elder/metrics": ("elder",),
    "elder/ability": ("elder", "elder/datasets", "elder/metrics"),
    "elder/mixture": ("elder", "elder/models"),
    "elder/forward": ("elder", "elder/models", "elder/mixture"),
    "elder/targets": ("elder", "elder/datasets", "elder/forward", "elder/mixture", "elder/models", "elder/solvers"),
    "elder/editors": ("elder", "elder/metrics", "elder/mixture"),
    "elder/editors/mixture": (
        "elder", "elder/edited", "elder/editors", "elder/forward", "elder/mixture", "elder/models", "elder/options",
    ),
    "elder/editors/codebook": (
        "elder", "elder/editors/mixture", "elder/forward", "elder/mixture", "elder/models", "elder/options",
    ),
    "elder/editors/weights": (
        "elder", "elder/edited", "elder/editors", "elder/forward", "elder/mixture", "elder/models", "elder/options",
        "elder/solvers", "elder/targets",
    ),
    "elder/hyper": (
        "elder", "elder/editors/weights", "elder/metrics", "elder/mixture", "elder/models", "elder/options",
        "elder/solvers",
    ),
    "elder/editors/gradient": (
        "elder", "elder/editors/weights", "elder/hyper", "elder/metrics", "elder/mixture", "elder/models",
        "elder/options", "elder/solvers",
    ),
    "elder (doors)": ("elder", "elder/datasets", "elder/editors", "elder/metrics", "elder/models"),
    "pipelines": (),
    "pipelines/config": ("elder", "elder/ability", "elder/datasets", "elder/metrics", "elder/options"),
    "pipelines/pages": ("elder/metrics",),
    "pipelines/run": (
        "elder", "elder/ability", "elder/datasets", "elder/hyper", "elder/metrics", "elder/models", "elder/solvers",
        "elder/targets", "pipelines", "pipelines/config",
    ),
    "pipelines/planning": ("elder", "elder/models", "elder/world", "pipelines/config", "pipelines/run"),
    "pipelines/cluster": ("elder", "elder/models", "pipelines/config", "pipelines/run"),
    "pipelines/edit": (
        "elder", "pipelines", "pipelines/cluster", "pipelines/config", "pipelines/pages", "pipelines/planning",
        "pipelines/run",
    ),
    "pipelines/search": (
        "elder", "pipelines", "pipelines/cluster", "pipelines/config", "pipelines/pages", "pipelines/planning",
        "pipelines/run",
    ),
    "pipelines/training": (
        "elder", "elder/datasets", "elder/hyper", "elder/metrics", "pipelines", "pipelines/cluster", "pipelines/config",
        "pipelines/pages", "pipelines/planning", "pipelines/run",
    ),
    "pipelines/suite": (
        "elder", "elder/metrics", "pipelines", "pipelines/cluster", "pipelines/config", "pipelines/edit",
        "pipelines/pages", "pipelines/planning", "pipelines/run",
    ),
    "infra/stores": ("elder", "pipelines"),
    "infra/tracking": ("elder", "elder/metrics", "infra/stores"),
    "infra/ray_jobs": ("elder",),
    "infra/doctor": ("elder", "infra/ray_jobs", "infra/stores", "infra/tracking", "pipelines"),
    "infra/dev": ("elder", "infra/stores"),
    "jobs/terminal": ("elder", "elder/metrics", "infra/tracking", "pipelines/config"),
    "jobs/shared": (
        "elder", "elder/models", "elder/world", "infra/stores", "infra/tracking", "jobs/terminal",
        "pipelines", "pipelines/config", "pipelines/run", "pipelines/suite",
    ),
    "jobs/remote": (
        "elder", "infra/ray_jobs", "infra/stores", "jobs/shared", "pipelines/config", "pipelines/run",
        "pipelines/training",
    ),
    "jobs/commands": (
        "elder", "elder (doors)", "elder/ability", "elder/datasets", "elder/editors/weights", "elder/metrics",
        "infra/dev", "infra/doctor", "infra/ray_jobs", "infra/tracking", "jobs/remote", "jobs/shared",
        "jobs/terminal", "pipelines", "pipelines/config", "pipelines/edit", "pipelines/planning", "pipelines/run",
        "pipelines/search", "pipelines/suite", "pipelines/training",
    ),
    "jobs": ("elder", "jobs/shared"),
}  # fmt: skip


def room_of(path: Path) -> str:
    """The room of a source file, given as a path below the root."""
    if path.parent == Path("elder"):
        return "elder (doors)" if path.stem in DOORS else "elder"
    return path.parent.as_posix()


def table() -> str:
    """The table as CONTRIBUTING.md shows it."""
    rows = [
        f"| `{room}` | {', '.join(f'`{name}`' for name in names) or 'nothing'} |" for room, names in MAY_IMPORT.items()
    ]
    return "\n".join(["| room | may import |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table())
