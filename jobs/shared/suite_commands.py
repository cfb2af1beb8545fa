"""Shared by the verbs for several runs at once: options, loading, the call itself, events as lines.

`jobs.commands.compare` and `jobs.commands.study` add pages, tables, and the driver that is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.errors import ConfigError
from elder.jobs.shared.options import cluster_option, directory_option, several, write_json
from elder.jobs.shared.running import job_tags, prepare, saying_how_to_continue
from elder.pipelines.config.strategies import STRATEGIES

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.suite import SuiteConfig
    from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome


method_options = several(
    click.option("--strategy", type=click.Choice(STRATEGIES), help="Short for compare.strategy=..."),
    click.option("--methods", metavar="A,B,C", help="Methods to compare; default: those of the section `compare`."),
)
place_options = several(
    click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="Runs at the same time on a cluster."),
    cluster_option,
    directory_option("--out", help="Where the report goes; default: elder-runs/VERB/ID."),
)


def names_of(methods: str | None) -> list[str]:
    """`--methods A,B` as names; nothing where the option was not given.

    Raises:
        ConfigError: It names nothing.
    """
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    if methods is not None and not names:
        raise ConfigError("--methods: names no method; give them as in --methods memit,rome")
    return names


def load_several(config: str, overrides: Sequence[str], methods: str | None, strategy: str | None) -> Any:
    """The comparison or study that a config describes; None where it describes neither.

    Args:
        config: File or name.
        overrides: `key.sub=value`.
        methods: As given; makes a comparison of an ordinary config.
        strategy: As given.

    Raises:
        ConfigError: Everything that is wrong with it, or the options are not for such a config.
    """
    from elder.pipelines.config.run import kind_of

    kind = kind_of(config, overrides)
    if kind == "compare" or (kind == "edit" and methods is not None):
        from elder.pipelines.config.comparison import load_compare_config

        return load_compare_config(config, with_strategy(overrides, strategy), names_of(methods))
    if methods is not None or strategy is not None:
        option = "--methods" if methods is not None else "--strategy"
        raise ConfigError(f"{option}: is for comparisons, and {config} describes none")
    if kind == "study":
        from elder.pipelines.config.study import load_study_config

        return load_study_config(config, overrides)
    return None


def with_strategy(overrides: Sequence[str], strategy: str | None) -> list[str]:
    """The overrides, followed by `--strategy` as one."""
    return [*overrides, *([] if strategy is None else [f"compare.strategy={strategy}"])]


@dataclass(frozen=True)
class SuitePages:
    """The parts of a verb that are its own.

    Attributes:
        opening: (number of edits) -> name and value of each line of the first page.
        closing: (console, what came, directory of the report) prints the last page.
        drive: Does the work.
    """

    opening: Callable[[int], Mapping[str, str]]
    closing: Callable[[Console, SuiteOutcome, Path], None]
    drive: Callable[[SuiteIO], SuiteOutcome]


def carry_out(
    suite: SuiteConfig, pages: SuitePages, resume: str, parallel: int | None, out: Path | None, json_file: Path | None
) -> None:
    """Check, run, show, write.

    Args:
        suite: The comparison or study.
        pages: Its own parts.
        resume: The command that continues it.
        parallel: `--parallel`.
        out: `--out`.
        json_file: `--json`.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: Runs did not finish; the others have, and the report is written.
    """
    from elder.jobs.shared.preflight import check_inputs
    from elder.jobs.shared.wiring import home, open_tracker
    from elder.jobs.terminal.display import make_console
    from elder.jobs.terminal.summary import pairs
    from elder.pipelines.suite.driver import SuiteIO
    from elder.pipelines.suite.members import outcome_error

    run, console = suite.run, make_console()
    place = out or Path("elder-runs") / suite.KIND / run.run_id
    inputs, factory = prepare(run, console, check_inputs)
    pairs(console, {**pages.opening(len(inputs.edits)), "store": run.tracking.store, "if it stops": resume})
    console.print()
    outside = SuiteIO(factory, lambda: open_tracker(run), SuiteLines(console), parallel, home(), place, tags=job_tags())
    with saying_how_to_continue(resume, lambda: "what was committed is kept"):
        came = pages.drive(outside)
    write_json(json_file, came.result)
    pages.closing(console, came, place)
    error = outcome_error(came.ended)
    if error is not None:
        raise error


class SuiteLines:
    """Events of several runs as lines, each with the name of its run in front."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun, self._lock = console, time.monotonic(), threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; unknown kinds are passed over."""
        who = f"{event['member']}: " if event.get("member") else ""
        if event.get("kind") == "note":
            self._line(f"{who}{event['text']}")
        elif event.get("kind") == "committed":
            self._line(f"{who}stage {event['stage']} committed, {event['edits']} edits; {headline(event['metrics'])}")
        elif event.get("kind") == "member":
            why = f": {event['error'].splitlines()[0]}" if event.get("error") else ""
            self._line(f"{event['name']} {event['status']} ({event['done']} of {event['of']} done){why}")

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._begun
        with self._lock:
            self._console.print(f"[{elapsed:7.1f}s] {text}", markup=False, highlight=False, soft_wrap=True)


def headline(metrics: Mapping[str, float]) -> str:
    """The first figures of a stage in a line."""
    from elder.pipelines.suite.comparison_result import shown_metrics

    names = [name for name in shown_metrics([metrics]) if name.startswith(("reliability", "locality", "counterfact.S"))]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in names[:4])
