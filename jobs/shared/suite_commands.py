"""What the verbs for several runs at once share: options, loading, the call itself, events as lines.

`jobs.commands.compare` and `jobs.commands.study` say what is theirs: pages, tables, and which driver is called.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from elder.errors import ConfigError, InputError
from elder.jobs.shared.options import check_json_target, write_json
from elder.pipelines.config.strategies import STRATEGIES

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.suite import SuiteConfig
    from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome

F = TypeVar("F", bound=Callable[..., Any])


def method_options(function: F) -> F:
    """`--methods A,B,C` and `--strategy NAME` of a comparison."""
    text = "Methods to compare; default: those of the section `compare`."
    function = click.option("--methods", metavar="A,B,C", help=text)(function)
    return click.option("--strategy", type=click.Choice(STRATEGIES), help="Short for compare.strategy=...")(function)


def place_options(function: F) -> F:
    """`--parallel N`, `--address URL` and `--out DIR`."""
    out = click.Path(file_okay=False, path_type=Path)
    text = "Where the report goes; default: elder-runs/VERB/ID."
    function = click.option("--out", metavar="DIR", type=out, help=text)(function)
    text = "Short for cluster.address=URL: auto, local or a Ray address."
    function = click.option("--address", metavar="URL", help=text)(function)
    text = "Runs at the same time on a cluster."
    return click.option("--parallel", type=click.IntRange(min=1), metavar="N", help=text)(function)


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
    """The overrides with `--strategy` behind them."""
    return [*overrides, *([] if strategy is None else [f"compare.strategy={strategy}"])]


@dataclass(frozen=True)
class Call:
    """How a verb for several runs was called.

    Attributes:
        verb: `compare` or `study`.
        config: The config as the user named it.
        overrides: With the short options behind them.
        extra: Options that are no overrides, as words.
        parallel: `--parallel`.
        out: `--out`.
        json_file: `--json`.
    """

    verb: str
    config: str
    overrides: Sequence[str]
    extra: Sequence[str]
    parallel: int | None
    out: Path | None
    json_file: Path | None

    def resume(self, run_id: str) -> str:
        """The command that goes on; inside a Ray job the user goes on by submitting again."""
        submitted = os.environ.get("ELDER_RESUME")
        if submitted:
            return submitted
        kept = [text for text in self.overrides if not text.startswith("run_id=")]
        extra = [*self.extra, *(() if self.parallel is None else ("--parallel", str(self.parallel)))]
        extra += [] if self.out is None else ["--out", str(self.out)]
        return shlex.join(["elder", self.verb, self.config, *kept, f"run_id={run_id}", *extra])


@dataclass(frozen=True)
class Pages:
    """What a verb shows.

    Attributes:
        opening: (number of edits) -> name and value of each line of the first page.
        closing: (console, what came, directory of the report) prints the last page.
        drive: Does the work.
    """

    opening: Callable[[int], Mapping[str, str]]
    closing: Callable[[Any, SuiteOutcome, Path], None]
    drive: Callable[[SuiteIO], SuiteOutcome]


def carry_out(call: Call, whole: SuiteConfig, pages: Pages) -> None:
    """Check, run, show, write.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: Runs did not finish; the others have, and the report is written.
    """
    from elder.jobs.terminal.display import make_console
    from elder.pipelines.suite.members import outcome_error

    check_json_target(call.json_file)
    place = call.out or Path("elder-runs") / call.verb / whole.run.run_id
    console = make_console()
    came = _perform(call, whole, pages, console, place)
    write_json(call.json_file, came.result)
    pages.closing(console, came, place)
    error = outcome_error(came.ended)
    if error is not None:
        raise error


def _perform(call: Call, whole: SuiteConfig, pages: Pages, console: Console, place: Path) -> SuiteOutcome:
    from elder.jobs.shared.preflight import check_inputs, check_places
    from elder.jobs.shared.running import job_tags, show_world
    from elder.jobs.shared.wiring import home, make_store_factory, open_tracker, quiet_libraries
    from elder.jobs.terminal.summary import pairs
    from elder.pipelines.suite.driver import SuiteIO

    run, resume = whole.run, call.resume(whole.run.run_id)
    quiet_libraries(run)
    show_world(run, console)
    inputs = check_inputs(run)
    factory = make_store_factory(run)
    check_places(factory())
    pairs(console, {**pages.opening(len(inputs.edits)), "store": run.tracking.store, "if it stops": resume})
    console.print()
    outside = SuiteIO(
        factory, lambda: open_tracker(run), SuiteLines(console), call.parallel, home(), place, tags=job_tags()
    )
    try:
        return pages.drive(outside)
    except InputError:
        raise  # nothing was started
    except BaseException:
        click.echo(f"what is committed stands; continue with: {resume}", err=True)
        raise


class SuiteLines:
    """Events of several runs as lines, each with the name of its run in front."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun, self._lock = console, time.monotonic(), threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; kinds that are not known are passed over."""
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
