"""docs/config.md, generated from the models of the configs and of the methods' options; a test keeps it current."""

from __future__ import annotations

from collections.abc import Container, Iterable

from pydantic import BaseModel

from elder.options.messages import settings_of
from elder.pipelines.config.checks import INHERITED_OPTIONS
from elder.pipelines.config.comparison import CompareSection
from elder.pipelines.config.former import FORMER_KEYS, FORMER_VALUES, REPLACED_VALUES
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import TuneConfig, TuneSection
from elder.pipelines.config.study import Part, StudySection
from elder.pipelines.config.training import TrainConfig
from elder.registry import METHODS, TRAINABLE, options_class, training_class

INTRODUCTION = """# Every key of a config

This page is generated: `elder ls config-reference > docs/config.md`.

A config is a YAML file. Every key has a default; unknown keys, wrong types and contradictions are reported all at
once, each with file, line and key. On the command line `key.sub=value` overrides a key; the value is YAML.
`elder plan CONFIG` prints the resolved config. Editors that know the YAML language server complete and check keys by
the schema that a packaged config names in its first line; `elder cp` keeps that line right.

Former names are still read, with a note: """
HEAD = "| key | value | default | meaning |\n|---|---|---|---|"

Row = tuple[str, str, str, str]
"""Dotted key, type, default, help."""


def config_reference() -> str:
    """The page as Markdown."""
    former = [f"`{key}` (now `{name}`)" for key, name in FORMER_KEYS.items()]
    for kind in (FORMER_VALUES, REPLACED_VALUES):
        former += [f"`{key}: {word}` (now `{now}`)" for key, words in kind.items() for word, now in words.items()]
    lines = [f"{INTRODUCTION}{', '.join(former)}.\n"]
    section = None
    rows = sorted(settings_of(RunConfig), key=lambda row: "." in row[0])  # stable: plain keys first, then the sections
    for row in rows:
        if row[0] == "editor.options":
            continue
        head = row[0].split(".")[0] if "." in row[0] else ""
        if head != section:
            section = head
            lines.append(f"\n## {head or 'The run'}\n\n{HEAD}")
        lines.append(_row(row))
    lines.append("\nThe config digest, which must be equal for a run to be continued, leaves out: ")
    lines.append(_listed(RunConfig.DIGEST_EXCLUDED) + ". At their defaults it leaves out, too: ")
    lines.append(_listed(RunConfig.DIGEST_DEFAULTS) + ".\n")
    lines += [_only_for("tune"), *_rows(TuneSection, "tune")]
    excluded = _listed(f"tune.{name}" for name in TuneConfig.DIGEST_EXCLUDED)
    lines.append(f"The digest of a search leaves out, beside what a run's does: {excluded}.\n")
    lines += [_only_for("compare"), *_rows(CompareSection, "compare")]
    lines += [_only_for("study"), *_rows(StudySection, "study"), *_rows(Part, "study.parts.NAME")]
    lines += _training()
    for name, method in METHODS.items():
        lines.append(f"## Options of `editor.method: {name}`\n\n{method.summary[0].upper()}{method.summary[1:]}.\n")
        lines += _rows(options_class(name), "editor", INHERITED_OPTIONS)
        lines.append(", ".join(f"`{option}` is set by `{key}`" for option, key in INHERITED_OPTIONS.items()) + ".\n")
    return "\n".join(lines).rstrip() + "\n"


def _only_for(name: str) -> str:
    """The head of a section that makes of a config one of many runs."""
    page = f"[{name}.md]({name}.md)"
    return f"## {name}\n\nOnly for `elder {name}`, see {page}; `elder edit` refuses a config that has it.\n"


def _training() -> list[str]:
    """The config of a training, and the options of what can be trained."""
    lines = [
        "## Configs of `elder train-editor`\n\nFrom here on; see [train_editor.md](train_editor.md). What makes a "
        "config one of a training is its section `training`. `model`, `cluster` and `tracking` are those above.\n",
        HEAD,
    ]
    shared = ("model.", "cluster.", "tracking.", "editor.")
    lines += [_row(row) for row in settings_of(TrainConfig) if not row[0].startswith(shared)]
    lines.append(f"\nThe digest of a training leaves out: {_listed(TrainConfig.DIGEST_EXCLUDED)}.\n")
    for name in TRAINABLE:
        lines.append(f"### Options of training `editor.method: {name}`\n")
        lines += [*_rows(training_class(name), "editor", ("seed",)), "`seed` is set by `seed`.\n"]
    return lines


def _rows(model: type[BaseModel], prefix: str, left_out: Container[str] = ()) -> list[str]:
    """The table of a section."""
    rows = [row for row in settings_of(model, prefix) if row[0].removeprefix(f"{prefix}.") not in left_out]
    return [HEAD, *map(_row, rows), ""]


def _row(row: Row) -> str:
    key, kind, default, text = row
    cells = (f"`{key}`", kind, f"`{default}`" if default else "fresh", text)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
