"""One input of the fuzz: what may happen, and what may not.

It is taken, or an `InputError` (exit code 2) or `AdapterError` refuses it. It may not raise anything else, compute for
longer than `CPU_S`, take more than `MEMORY_MB` of memory, or change a file before it is refused.
"""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from elder.errors import AdapterError, ElderError, InputError

CPU_S = 10.0
MEMORY_MB = 500
SEED = 12

Case = Callable[[Random, Path], Callable[[], object]]
"""Writes one mutated input into an empty folder, and returns what is to be called with it."""


class Hung(BaseException):
    """An input that takes too long; no `except Exception` catches it."""


@dataclass(frozen=True)
class Verdict:
    """What came of one input: how it was refused (None: it was taken), and what is wrong with that (None: nothing)."""

    refused: str | None
    wrong: str | None


def judge(kind: str, case: Case, number: int, folder: Path, limit_mb: float) -> Verdict:
    """Try one input.

    Args:
        kind: Its name, of which, with its number, the input is made.
        case: Makes it.
        number: Which one.
        folder: Empty.
        limit_mb: The memory of this process that must not be passed.
    """
    call = case(Random(f"{SEED} {kind} {number}"), folder)
    before = files_of(folder)
    refused = wrong = None
    try:
        with _limited():
            call()
    except ElderError as error:
        refused = str(error)
        if not isinstance(error, InputError | AdapterError):
            wrong = f"{type(error).__name__}: {error}"
        elif len(refused) < 10 or len(refused) > 20_000:
            wrong = f"no sentence: {refused[:200]!r}"
    except Hung:
        wrong = f"it took more than {CPU_S:g} s of processor time"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        wrong = "".join(traceback.format_exception(error, limit=-6))
    if refused is not None and wrong is None and files_of(folder) != before:
        wrong = f"it changed files before it was refused: {refused}"
    if wrong is None and memory_mb() > limit_mb:
        wrong = f"it took {memory_mb() - limit_mb + MEMORY_MB:.0f} MB of memory"
    return Verdict(refused, wrong)


def memory_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and the time of its last change."""
    return {str(path): (found.st_size, found.st_mtime_ns) for path in folder.rglob("*") if (found := path.lstat())}


@contextmanager
def _limited() -> Iterator[None]:
    """End what computes for too long. What waits without computing is for the time limit of the test."""

    def hang(number: int, frame: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
