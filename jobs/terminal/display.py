"""The display of a run while it runs: bars and a growing table on a terminal, plain lines elsewhere.

Driven by the events of `pipelines.run.driver` alone. Knows nothing of how the run works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PHASES = {
    "start": "start the workers",
    "load": "load the base model",
    "known": "ask what is known",
    "prepare": "take statistics of text",
    "edit": "edit",
    "evaluate": "measure",
    "commit": "commit",
}
WIDE = 160
COLUMNS = ("reliability", "generalization", "locality")


def make_console() -> Console:
    """Standard output; a file or pipe gets wide rows, since nothing folds them there."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


class LiveDisplay:
    """Something that is redrawn on a terminal while events come in; elsewhere they become lines.

    Args:
        console: Where to write; whether it is a terminal decides.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._begun = console, time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self._drawing(ended=False), console=self._console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.update(self._drawing(ended=True))
            self._live.stop()

    def _drawing(self, ended: bool) -> RenderableType:
        raise NotImplementedError

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._console.print(text, style="dim", markup=False, highlight=False)
        else:
            elapsed = time.monotonic() - self._begun
            self._console.print(f"[{elapsed:7.1f}s] {text}", markup=False, highlight=False, soft_wrap=True)


class Display(LiveDisplay):
    """Shows the events of one run.

    Use it as a context; call it with every event. `committed` holds the events of committed stages.

    Args:
        console: Where to write; whether it is a terminal decides between bars and lines.
        protocols: The protocols measured, in the order of the config.
        columns: Heading of a column -> the metrics in it; by default the quantities of an edit run.
        words: Names of phases, where they differ from those of an edit run.
    """

    def __init__(
        self,
        console: Console,
        protocols: Sequence[str],
        columns: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(console)
        self._columns = columns or {
            f"{name} ({'/'.join(protocols)})": [f"{name}.{protocol}" for protocol in protocols] for name in COLUMNS
        }
        self._words = {**PHASES, **(words or {})}
        self._task: TaskID | None = None
        self._label = ""
        self._stage_begun = self._begun
        self.committed: list[Mapping[str, Any]] = []
        self._table = Table(title=None, pad_edge=False, box=None, header_style="bold")
        for name in ("stage", "edits", *self._columns, "seconds"):
            self._table.add_column(name, justify="right")
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
        )

    def _drawing(self, ended: bool) -> RenderableType:
        if ended:
            return Group(self._table) if self._table.row_count else Group()
        return Group(self._table, self._progress) if self._table.row_count else Group(self._progress)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; unknown kinds are passed over, so that drivers may say more."""
        show = {
            "phase": self._phase,
            "batch": self._batch,
            "evaluated": self._evaluated,
            "prepared": self._evaluated,
            "committed": self._committed,
            "note": self._note,
        }.get(str(event.get("kind")))
        if show is not None:
            show(event)

    def last_committed(self, unit: str = "stage") -> str:
        """A sentence on the last stage that was committed."""
        if not self.committed:
            return f"no {unit} was committed in this session"
        return f"{unit} {self.committed[-1]['stage']} is committed ({self.committed[-1]['edits']} edits)"

    def _phase(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("name"))
        where = "" if name in ("start", "load") or event.get("stage") is None else f"stage {event['stage']}: "
        self._label = where + self._words.get(name, name)
        if name == "edit":
            self._stage_begun = time.monotonic()
        if self._live is None:
            self._line(self._label)
        else:
            self._live.refresh()  # the last bar in its last state
            self._bar(0, None, "")

    def _batch(self, event: Mapping[str, Any]) -> None:
        loss = event.get("loss")
        self._bar(event["done"], event["of"], f"loss {loss:.3f}" if isinstance(loss, float) else "")

    def _evaluated(self, event: Mapping[str, Any]) -> None:
        self._bar(event["done"], event["of"], "")

    def _bar(self, done: int, of: int | None, detail: str) -> None:
        if self._live is None:
            return
        known = self._task is not None and self._progress.tasks[0].description == self._label
        if not known:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(self._label, total=of, detail=detail)
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=of, detail=detail)

    def _committed(self, event: Mapping[str, Any]) -> None:
        self.committed.append(dict(event))
        seconds, self._stage_begun = time.monotonic() - self._stage_begun, time.monotonic()
        cells = [str(event["stage"]), str(event["edits"]), *self._figures(event.get("metrics") or {}), f"{seconds:.1f}"]
        self._table.add_row(*cells)
        if self._live is not None:
            self._live.refresh()
            self._live.update(self._drawing(ended=False))
        else:
            named = ", ".join(f"{head} {cell}" for head, cell in zip(self._columns, cells[2:-1], strict=True))
            self._line(f"stage {event['stage']}: committed, {event['edits']} edits, {named}")

    def _note(self, event: Mapping[str, Any]) -> None:
        self._line(f"note: {event.get('text', '')}")

    def _figures(self, metrics: Mapping[str, float]) -> list[str]:
        return [" / ".join(figure(metrics.get(name)) for name in names) for names in self._columns.values()]


def figure(value: float | None) -> str:
    """A share with three digits, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.3f}"


def plain_table(title: str | None, *columns: str) -> Table:
    """A table without lines, whose long cells are folded."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[int, int, float], None]]:
    """A callback for (steps done, steps of all, loss): a bar on a terminal, a line for every tenth elsewhere."""
    if not console.is_terminal:
        tenths = [0]

        def tell(done: int, of: int, loss: float) -> None:
            if done * 10 // of > tenths[0]:
                tenths[0] = done * 10 // of
                console.print(f"  training: {done} of {of} steps, loss {loss:.3f}", highlight=False)

        yield tell
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("training", total=None, detail="")

        def move(done: int, of: int, loss: float) -> None:
            progress.update(task, completed=done, total=of, detail=f"loss {loss:.3f}")

        yield move


@contextmanager
def fetch_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for (what is done, bytes done, bytes of all): a bar on a terminal, a line for every quarter else."""
    if not console.is_terminal:
        last: list[tuple[str, int]] = []

        def tell(what: str, done: int, of: int) -> None:
            now = (what, done * 4 // of)
            if last[-1:] != [now]:
                last.append(now)
                amount = f": {done / 1e6:.0f} of {of / 1e6:.0f} MB" if done else ""
                console.print(f"  {what}{amount}", highlight=False)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None)

        def move(what: str, done: int, of: int) -> None:
            progress.update(task, description=what, completed=done, total=of if done else None)

        yield move
