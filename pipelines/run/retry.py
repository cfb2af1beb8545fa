"""How a run that is under way waits for a store or a tracker that does not answer.

Before the work starts nobody waits: a wrong address should be known at once. Later, hours of work hang on it, and
most outages end by themselves. Knows no implementation of either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from elder.errors import UnreachableError
from elder.pipelines.protocols import ObjectInfo, Store

GROWING = wait_exponential(multiplier=1.0, max=30.0)

T = TypeVar("T")
Note = Callable[[str], None]


def call_with_retries(call: Callable[[], T], timeout_s: float, note: Note, who: str) -> T:
    """Call, and call again while nobody answers; pauses double from 1 to 30 s and come to `timeout_s` together.

    Args:
        call: May be repeated.
        timeout_s: Seconds of pauses, beside what the tries themselves take; 0 tries once.
        note: Receives a sentence before each pause.
        who: Who does not answer, as the sentence begins.

    Raises:
        UnreachableError: Of the last try.
    """

    def pause(state: RetryCallState) -> float:
        return min(GROWING(state), timeout_s - state.idle_for)

    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        reason = first_line(state.outcome.exception() or UnreachableError())
        note(f"{who} does not answer, trying again in {state.upcoming_sleep:g} s: {reason}")

    return Retrying(
        retry=retry_if_exception_type(UnreachableError),
        stop=lambda state: state.idle_for >= timeout_s,
        wait=pause,
        before_sleep=tell,
        sleep=time.sleep,
        reraise=True,
    )(call)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class RetryingStore:
    """A store whose calls are repeated for a while when it does not answer.

    A conditional write may be taken by a try of our own whose answer was lost: whoever calls `create` looks at what
    is there before calling it somebody else's.

    Args:
        store: The store.
        timeout_s: Seconds of pauses, beside what the tries themselves take.
        note: Receives a sentence before each pause.
    """

    def __init__(self, store: Store, timeout_s: float, note: Note) -> None:
        self.uri = store.uri
        self._store, self._timeout_s, self._note = store, timeout_s, note

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
        return call_with_retries(action, self._timeout_s, self._note, "the store")
