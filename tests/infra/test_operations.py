"""The commands and links of docs/operations.md: our parsers take them, the files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from elder.jobs.main import cli
from elder.jobs.shared.verbs import VERBS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def command_lines() -> list[str]:
    """Every `elder ...` of the page's blocks: continued lines joined, comments and other programs left out."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split(" #")[0].split("; ")]
    calls = [re.sub(r"^.* exec ray-head ", "", part) for part in parts]
    return [re.sub(r"\$\(cat [^)]*\)", "name=x", call) for call in calls if call.startswith("elder ")]


def test_the_page_has_commands() -> None:
    assert len(command_lines()) >= 10
    assert {shlex.split(line)[1] for line in command_lines()} >= {"up", "down", "edit", "submit", "pull", "doctor"}


@pytest.mark.parametrize("line", command_lines())
def test_the_command_line_takes_it(line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    assert verb in VERBS
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    command.make_context(verb, arguments, parent=click.Context(cli))


def test_links_and_files_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert {"submit.md", "tune.md", "retrieve.md", "reliability.md"} <= set(links)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    files = set(re.findall(r"\binfra/(?:aws|docker|kuberay)/[\w./-]*\w", TEXT)) - {"infra/docker/.env"}
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_keys_of_configs_are_known() -> None:
    from elder.pipelines.config.run import load_config

    keys = set(re.findall(r"\b((?:tracking|cluster)(?:\.\w+)+)=(\S+)", TEXT))
    assert len(keys) >= 6
    values = {key: re.sub(r"\$\w+|MLFLOW", "x", value.strip("`),.;")) for key, value in keys}
    load_config("demo", [f"{key}={value}" for key, value in values.items()])
