"""docs/config.md, generated from the schema and the methods' options; a test keeps the committed page current."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from elder.pipelines.config.checks import HANDED
from elder.pipelines.config.comparison import CompareSection
from elder.pipelines.config.run import NEUTRAL, RunConfig
from elder.pipelines.config.schema import describe
from elder.pipelines.config.search import NEUTRAL as TUNE_NEUTRAL
from elder.pipelines.config.search import TuneSection
from elder.pipelines.config.study import Part, StudySection
from elder.pipelines.config.training import NEUTRAL as TRAIN_NEUTRAL
from elder.pipelines.config.training import TrainConfig
from elder.registry import METHODS, TRAINABLE, options_class, training_class

INTRODUCTION = """# Every key of a config

This page is generated: `elder ls config-reference > docs/config.md`.

A config is a YAML file. Every key has a default; unknown keys, wrong types and contradictions are reported all at
once, each with file, line and key. On the command line `key.sub=value` overrides a key; the value is YAML.
`elder plan CONFIG` prints the resolved config.
"""


def config_reference() -> str:
    """The page as Markdown."""
    lines = [INTRODUCTION]
    section = None
    rows = sorted(describe(RunConfig), key=lambda row: "." in row[0])  # stable: plain keys first, then the sections
    for key, kind, default, text in rows:
        if key == "editor.options":
            continue
        head = key.split(".")[0] if "." in key else ""
        if head != section:
            section = head
            lines.append(f"\n## {head or 'The run'}\n\n| key | value | default | meaning |\n|---|---|---|---|")
        lines.append(_row(f"`{key}`", kind, f"`{default}`" if default else "fresh", text))
    lines.append("\nThe config digest, which must be equal for a run to be continued, leaves out: ")
    lines.append(", ".join(f"`{name}`" for name in NEUTRAL) + ".\n")
    lines += _tune()
    lines += _several("compare", CompareSection, "compare.md")
    lines += _several("study", StudySection, "study.md")
    lines += _rows(Part, "study.parts.NAME")
    lines += _training()
    for name, method in METHODS.items():
        lines += _method(name, method.summary)
    return "\n".join(lines).rstrip() + "\n"


def _several(name: str, section: type, page: str) -> list[str]:
    """A section that makes of a config one of many runs."""
    head = f"## {name}\n\nOnly for `elder {name}`, see [{page}]({page}); `elder edit` refuses a config that has it.\n"
    return [head, *_rows(section, name)]


def _rows(section: type, prefix: str) -> list[str]:
    """The table of a section."""
    lines = ["| key | value | default | meaning |\n|---|---|---|---|"]
    lines += [_row(f"`{k}`", kind, f"`{default}`", text) for k, kind, default, text in describe(section, prefix)]
    return [*lines, ""]


def _tune() -> list[str]:
    """The section that makes a config one of a search."""
    lines = ["## tune\n\nOnly for `elder tune`, see [tune.md](tune.md); `elder edit` refuses a config that has it.\n"]
    lines.append("| key | value | default | meaning |\n|---|---|---|---|")
    lines += [_row(f"`{k}`", kind, f"`{default}`", text) for k, kind, default, text in describe(TuneSection, "tune")]
    named = ", ".join(f"`tune.{name}`" for name in TUNE_NEUTRAL)
    lines.append(f"\nThe digest of a search leaves out, beside what a run's does: {named}.\n")
    return lines


def _training() -> list[str]:
    """The config of a training: a schema of its own, and the options of what can be trained."""
    lines = [
        "## Configs of `elder train-editor`\n\nFrom here on; see [train_editor.md](train_editor.md). What makes a "
    ]
    lines[0] += (
        "config one of a training is its section `training`. `model`, `cluster` and `tracking` are those above.\n"
    )
    lines.append("| key | value | default | meaning |\n|---|---|---|---|")
    shared = ("model.", "cluster.", "tracking.", "editor.")
    rows = [row for row in describe(TrainConfig) if not row[0].startswith(shared)]
    lines += [_row(f"`{key}`", kind, f"`{default}`" if default else "fresh", text) for key, kind, default, text in rows]
    lines.append("\nThe digest of a training leaves out: " + ", ".join(f"`{name}`" for name in TRAIN_NEUTRAL) + ".\n")
    for name in TRAINABLE:
        lines.append(f"### Options of training `editor.method: {name}`\n")
        lines.append("| key | value | default | meaning |\n|---|---|---|---|")
        lines += _options(training_class(name), ("seed",))
        lines.append("\n`seed` is set by `seed`.\n")
    return lines


def _options(cls: Any, left_out: Any) -> list[str]:
    hints = typing.get_type_hints(cls)
    return [
        _row(f"`editor.{f.name}`", _kind(hints[f.name]), f"`{_default(f)}`", str(f.metadata.get("help", "")))
        for f in dataclasses.fields(cls)
        if f.name not in left_out
    ]


def _method(name: str, summary: str) -> list[str]:
    cls = options_class(name)
    hints = typing.get_type_hints(cls)
    lines = [f"## Options of `editor.method: {name}`\n\n{summary[0].upper()}{summary[1:]}.\n"]
    lines.append("| key | value | default | meaning |\n|---|---|---|---|")
    for spec in dataclasses.fields(cls):
        if spec.name not in HANDED:
            text = str(spec.metadata.get("help", ""))
            lines.append(_row(f"`editor.{spec.name}`", _kind(hints[spec.name]), f"`{_default(spec)}`", text))
    lines.append("\n" + ", ".join(f"`{name}` is set by `{key}`" for name, key in HANDED.items()) + ".\n")
    return lines


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _kind(kind: Any) -> str:
    inner = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)]
    if type(None) in typing.get_args(kind):
        return f"{_kind(inner[0])} or `null`"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if typing.get_origin(kind) is tuple:
        return f"list of {_kind(inner[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))


def _default(spec: dataclasses.Field[Any]) -> str:
    made = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
    if isinstance(made, bool):
        return str(made).lower()
    return "null" if made is None else str(list(made) if isinstance(made, tuple) else made)
