"""A line of the doctor, and how a part is tried: whatever goes wrong, or takes too long, is the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elder.errors import ElderError


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


@dataclass(frozen=True)
class Part:
    """Something to be tried.

    Attributes:
        name: Name of its line, if it fails.
        action: Gives its lines, or a text for one line that is ok.
        remedy: What to do if it fails.
        patience_s: After so many seconds without an answer it counts as failed.
    """

    name: str
    action: Callable[[], str | Sequence[Check]]
    remedy: str
    patience_s: float = 15.0

    def run(self) -> list[Check]:
        """The lines of this part."""
        try:
            found = self.action()
        except ElderError as error:
            return [Check(self.name, False, str(error), self.remedy)]
        except Exception as error:
            return [Check(self.name, False, f"{type(error).__name__}: {error}", self.remedy)]
        return [Check(self.name, True, found)] if isinstance(found, str) else list(found)


def try_all(parts: Sequence[Part]) -> list[Check]:
    """Try parts side by side; their lines in the given order."""
    running = [_Trial(part) for part in parts]
    return [line for trial in running for line in trial.lines()]


class _Trial:
    """A part at work in a thread that nobody waits for when it hangs."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._lines: list[Check] = []
        self._thread = threading.Thread(target=self._work, name=f"doctor {part.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self._lines = self._part.run()

    def lines(self) -> list[Check]:
        self._thread.join(self._part.patience_s)
        if self._thread.is_alive():
            text = f"no answer within {self._part.patience_s:g} s"
            return [Check(self._part.name, False, text, self._part.remedy)]
        return self._lines
