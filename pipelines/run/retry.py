"""How a run that is under way waits for a store or a tracker that does not answer.

Before the work starts nobody waits: a wrong address should be known at once. Later, hours of work hang on it, and
most outages end by themselves. Knows no implementation of either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from elder.errors import UnreachableError
from elder.pipelines.protocols import ObjectInfo, Store

FIRST_S, LONGEST_S = 1.0, 30.0

T = TypeVar("T")
Note = Callable[[str], None]


def pauses_within(patience_s: float) -> tuple[float, ...]:
    """Seconds between tries: doubling from 1 to 30, together `patience_s`."""
    pauses: list[float] = []
    pause, left = FIRST_S, patience_s
    while left > 0:
        pauses.append(min(pause, left))
        left -= pauses[-1]
        pause = min(2 * pause, LONGEST_S)
    return tuple(pauses)


def patiently(call: Callable[[], T], pauses: Sequence[float], note: Note, who: str) -> T:
    """Call, and call again after each pause while nobody answers.

    Args:
        call: May be repeated.
        pauses: Seconds before the second, third, ... try.
        note: Receives a sentence before each pause.
        who: Who does not answer, as the sentence begins.

    Raises:
        UnreachableError: Of the last try.
    """
    for pause in pauses:
        try:
            return call()
        except UnreachableError as error:
            note(f"{who} does not answer, trying again in {pause:g} s: {first_line(error)}")
            time.sleep(pause)
    return call()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class PatientStore:
    """A store whose calls are repeated for a while when it does not answer.

    A conditional write may be taken by a try of our own whose answer was lost: whoever calls `create` looks at what
    is there before calling it somebody else's.

    Args:
        store: The store.
        patience_s: Seconds of pauses, beside what the tries themselves take.
        note: Receives a sentence before each pause.
    """

    def __init__(self, store: Store, patience_s: float, note: Note) -> None:
        self.uri = store.uri
        self._store, self._pauses, self._note = store, pauses_within(patience_s), note

    def put(self, key: str, data: bytes | Path) -> ObjectInfo:
        """As `Store.put`."""
        return self._call(lambda: self._store.put(key, data))

    def create(self, key: str, data: bytes) -> bool:
        """As `Store.create`."""
        return self._call(lambda: self._store.create(key, data))

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """As `Store.get`."""
        return self._call(lambda: self._store.get(key, sha256))

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """As `Store.download`."""
        self._call(lambda: self._store.download(key, path, sha256))

    def exists(self, key: str) -> bool:
        """As `Store.exists`."""
        return self._call(lambda: self._store.exists(key))

    def delete(self, key: str) -> None:
        """As `Store.delete`."""
        self._call(lambda: self._store.delete(key))

    def list(self, prefix: str) -> list[str]:
        """As `Store.list`."""
        return self._call(lambda: self._store.list(prefix))

    def _call(self, action: Callable[[], T]) -> T:
        return patiently(action, self._pauses, self._note, "the store")
