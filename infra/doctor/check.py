"""A line of the doctor, and how parts are tried side by side: whatever goes wrong, or takes too long, is the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TypeVar

from elder.errors import ElderError

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, whether it is good, what was found, and what to do if it is not.

    `warn` marks what works but not as it should.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    warn: bool = False

    @property
    def word(self) -> str:
        """`ok`, `warn` or `FAIL`."""
        return "FAIL" if not self.ok else "warn" if self.warn else "ok"


Action = Callable[[], str | Sequence[Check]]


@dataclass(frozen=True)
class Part:
    """Something to be tried.

    Attributes:
        name: Name of its line, if it fails.
        action: Gives its lines, or a text for one line that is ok.
        remedy: What to do if it fails.
        timeout_s: After so many seconds without an answer it counts as failed.
    """

    name: str
    action: Action
    remedy: str
    timeout_s: float = 15.0

    def lines(self, found: Future[str | Sequence[Check]]) -> Sequence[Check]:
        """The lines of this part, when its action has run or its time is over."""
        wait([found], self.timeout_s)
        if not found.done():
            return [Check(self.name, False, f"no answer within {self.timeout_s:g} s", self.remedy)]
        error = found.exception()
        if error is not None:
            text = str(error) if isinstance(error, ElderError) else f"{type(error).__name__}: {error}"
            return [Check(self.name, False, text, self.remedy)]
        answer = found.result()
        return [Check(self.name, True, answer)] if isinstance(answer, str) else answer


def try_all(parts: Sequence[Part]) -> list[Check]:
    """Try parts side by side; their lines in the given order."""
    running = [(part, in_background(part.action)) for part in parts]
    return [line for part, found in running for line in part.lines(found)]


def in_background(action: Callable[[], T]) -> Future[T]:
    """Call in a thread that does not keep the process alive when it hangs, as one of a pool would."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
