"""The entry point of `elder`: verbs by name, fetched when they are called, so that help is instant.

Maps the classes of `elder.errors` to exit codes: 0 done, 1 the job failed, 2 usage or config, 3 cluster or store
unreachable, 4 a gate refused, 5 another driver has taken the run over, 130 interrupted by Ctrl-C, 143 ended by SIGTERM.
"""

from __future__ import annotations

import difflib
import errno
import io
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import click

from elder import __version__
from elder.errors import ElderError, FormerNameWarning, GateError, InputError, RunTakenOver, UnreachableError, causes
from elder.jobs.shared.verbs import GROUPS, VERBS
from elder.redact import SECRET_NAME, redact

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_TAKEN_OVER = 0, 1, 2, 3, 4, 5
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 128 + signal.SIGTERM


SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
# MLflow's defaults are four minutes of asking a server that is away, and two for every answer. A run asks again
# itself (tracking.retry_timeout_s), and says so.
BRISK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


class Verbs(click.Group):
    """A group whose commands live in modules that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which a user meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"elder.jobs.commands.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by purpose without importing any of them."""
        for purpose, verbs in GROUPS.items():
            with formatter.section(purpose):
                formatter.write_dl(list(verbs.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a mistyped verb."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(VERBS)}."
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; an import that fails because a library of an extra is not installed names the extra."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if elder_error(error) is not None:
                raise
            from elder.jobs.shared.extras import NotInstalledError, absent_library, sentence

            package = absent_library(error)
            if package is None:
                raise
            raise NotInstalledError(sentence(package, ctx.invoked_subcommand)) from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="elder %(version)s")
def cli() -> None:
    """Lifelong knowledge editing of language models: a stream of edits goes in; a committed, measured, reversible
    adapter comes out, on a laptop or on a Ray cluster.

    \b
    elder demo                                see it work, in a few minutes
    elder edit CONFIG editor.lr=2e-5          any key of the config can be overridden
    elder pull models:/elder-demo@champion adapter/
    """
    for name, value in {**SILENT, **BRISK}.items():  # before a verb imports mlflow; what the user has set is kept
        os.environ.setdefault(name, value)


def exit_code(error: BaseException) -> int:
    """The exit code of an error, or of the elder error that it was raised from."""
    codes = {
        InputError: EXIT_USAGE,
        UnreachableError: EXIT_UNREACHABLE,
        GateError: EXIT_REFUSED,
        RunTakenOver: EXIT_TAKEN_OVER,
    }
    found = elder_error(error)
    return next((code for kind, code in codes.items() if isinstance(found, kind)), EXIT_FAILED)


def elder_error(error: BaseException | None) -> ElderError | None:
    """The first elder error along the chain of causes."""
    return next((link for link in causes(error) if isinstance(link, ElderError)), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; default: those of the process.

    Returns:
        The exit code.
    """
    try:
        with _ended_cleanly_by_sigterm(), _former_names_noted():
            code = cli.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="elder", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(_shown(text.getvalue()), err=True, nl=False)
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__ or error.__context__ or error, Terminated):
            return _terminated()
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:  # Ray replaces our handler by one that leaves with the signal's number
            raise
        return _terminated()
    except Exception as error:
        return _report(error)


@contextmanager
def _former_names_noted() -> Iterator[None]:
    """Former names of keys are shown as notes, each once; other warnings as usual."""
    noted: set[str] = set()
    usual = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if not issubclass(category, FormerNameWarning):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in noted:
            noted.add(str(message))
            click.echo(_shown(f"note: {message}"), err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FormerNameWarning)
        warnings.showwarning = show
        yield


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def _ended_cleanly_by_sigterm() -> Iterator[None]:
    """systemd, Kubernetes and `elder stop` send SIGTERM: it ends a run as Ctrl-C does, so that its record is closed.

    Once is enough: a second one does not cut off the closing.
    """
    untouched = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not untouched or threading.current_thread() is not threading.main_thread():
        yield
        return
    come: list[int] = []

    def terminate(number: int, frame: object) -> None:
        come.append(number)
        if len(come) == 1:
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:  # Ray may have put its own in this place
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated() -> int:
    click.echo("interrupted by SIGTERM", err=True)
    return EXIT_TERMINATED


def _shown(text: str) -> str:
    """A text as others may see it: without the values of variables that are called a secret."""
    return redact(text, [value for name, value in os.environ.items() if SECRET_NAME.search(name)])


def _report(error: Exception) -> int:
    found = elder_error(error) or _no_room(error)
    if found is None or os.environ.get("ELDER_DEBUG"):
        click.echo(_shown("".join(traceback.format_exception(error))), err=True, nl=False)
    if found is None:
        click.echo("error: elder met something it did not foresee (above); please report it", err=True)
    else:
        lines = found.problems if isinstance(found, InputError) else str(found).splitlines() or [type(found).__name__]
        for number, line in enumerate(lines):
            first = isinstance(found, InputError) or number == 0
            click.echo(_shown(f"error: {line}" if first else f"       {line}"), err=True)
    return exit_code(found or error)


def _no_room(error: Exception) -> UnreachableError | None:
    """What to say where a disk is full or read-only that no part of elder asks about, such as that of TMPDIR."""
    full = next((link for link in causes(error) if isinstance(link, OSError) and link.errno in NO_ROOM), None)
    if full is None:
        return None
    where = f"'{full.filename}'" if full.filename else f"a file (temporary files lie in '{tempfile.gettempdir()}')"
    return UnreachableError(f"{where} cannot be written: {full.strerror}. Make room, or set TMPDIR to another disk")


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
