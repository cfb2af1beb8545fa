"""Which of the drivers of a run owns it. They are numbered by one object each, and the newest one owns the run.

No driver has to prove that it is alive, so the one after a crash need not wait for anything. What becomes of a newer
driver is settled once, by an object that is created only if there is none: an older driver hands the run over to it
and stops, or it has ended and the older one continues. So of two drivers that meet, one works.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from elder.errors import RunTakenOver
from elder.pipelines.protocols import Store

DRIVERS = "drivers"  # folder of the drivers that the run has had
HANDED_OVER, ENDED = "handed over", "ended"


class DriverEpochs:
    """The drivers of one run, numbered from 1.

    Args:
        store: Any store.
        run_id: The run.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id, self._root = store, run_id, f"runs/{run_id}/{DRIVERS}"

    def take(self, who: Mapping[str, Any]) -> int:
        """Take the run over. Returns the number of the new driver.

        Args:
            who: What an older driver that is still alive tells its user.
        """
        number = max(self._numbers(), default=0) + 1
        while not self._store.create(self._key(number), _json(who)):
            number += 1
        return number

    def check(self, number: int) -> None:
        """Whether the driver of this number still owns the run; if not, it hands it over. 0 is not asked.

        Raises:
            RunTakenOver: A newer driver owns it, and counts on this one to stop.
        """
        newer = [found for found in self._numbers() if found > number] if number else []
        for one in sorted(newer, reverse=True):
            if self._settle(one, HANDED_OVER) == HANDED_OVER:
                raise RunTakenOver(
                    f"another driver has taken over run '{self._run_id}' ({self.text(one)}); this one "
                    "stops. What is committed is kept, and the other resumes from it"
                )

    def end(self, number: int) -> bool:
        """A driver ends without having brought the run to its end.

        Returns:
            Whether an older one that is alive may continue; False: it has handed the run over already.
        """
        return self._settle(number, ENDED) == ENDED

    def older(self, number: int) -> str:
        """The driver before this one, in words, if it has neither ended nor handed the run over; else nothing."""
        if number < 2 or self._outcome(number) or self._outcome(number - 1) == ENDED:
            return ""
        return self.text(number - 1)

    def text(self, number: int) -> str:
        """Host, process and start of a driver, for people."""
        who = json.loads(self._store.get(self._key(number)))
        return ", ".join(f"{name} {value}" for name, value in sorted(who.items()))

    def _settle(self, number: int, outcome: str) -> str:
        """Say what becomes of a driver, unless it is settled. Returns what counts."""
        self._store.create(self._key(number, ".outcome"), _json({"outcome": outcome}))
        return self._outcome(number)

    def _outcome(self, number: int) -> str:
        try:
            return str(json.loads(self._store.get(self._key(number, ".outcome")))["outcome"])
        except KeyError:
            return ""

    def _numbers(self) -> list[int]:
        names = (key.rpartition("/")[2].removesuffix(".json") for key in self._store.list(f"{self._root}/"))
        return [int(name) for name in names if name.isdecimal()]

    def _key(self, number: int, kind: str = "") -> str:
        return f"{self._root}/{number:06d}{kind}.json"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()
