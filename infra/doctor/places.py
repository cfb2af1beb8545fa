"""Store, MLflow and the clock, as the doctor tries them. A check removes again what it made."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from elder.errors import UnreachableError
from elder.infra.doctor.check import Check, in_background
from elder.infra.doctor.nodes import ask_time
from elder.pipelines.protocols import Store

RACERS, RACES = 6, 4
SKEW_WARN_S, SKEW_FAIL_S = 30.0, 900.0  # S3 refuses signatures that are 15 minutes off
CLOCK_REMEDY = "Set the clock of this machine (chrony or ntpd); S3 refuses requests that are 15 minutes off."
RACE_REMEDY = (
    "Never start two drivers for one run on this store at the same time; one driver alone is safe. For more, take a "
    "store whose conditional writes are atomic, such as Amazon S3."
)


def try_store(uri: str | Path, s3: Mapping[str, Any] | None) -> list[Check]:
    """Round trip and conditional create, one after the other and as a race."""
    from elder.infra.stores.open import open_store, probe_store

    store = open_store(uri, s3)
    with kept_clean(None if store.uri.startswith("s3://") else Path(store.uri)):
        seconds = probe_store(store)
        lines = [Check("object store", True, f"{store.uri}: round trip and conditional create in {seconds:.2f} s")]
        lost = race(store)
    if lost:
        text = f"{store.uri}: in {lost} of {RACES} races more than one of {RACERS} writers created the same object"
        return [*lines, Check("store race", True, text, RACE_REMEDY, warn=True)]
    return [*lines, Check("store race", True, f"one of {RACERS} writers created the object in each of {RACES} races")]


def race(store: Store, racers: int = RACERS, races: int = RACES) -> int:
    """Let several writers create the same object at the same moment; returns how often more than one did.

    Raises:
        UnreachableError: The store broke off, or nobody could create the object.
    """
    return sum(_winners(store, racers) > 1 for _ in range(races))


def _winners(store: Store, racers: int) -> int:
    """How many writers created the object that all of them tried to create at once, as the store says."""
    key, start = f"probe-{uuid.uuid4().hex}", threading.Barrier(racers)

    def create() -> bool:
        start.wait(10)
        return store.create(key, uuid.uuid4().bytes)

    writers = [in_background(create) for _ in range(racers)]
    wait(writers)
    with suppress(UnreachableError):
        store.delete(key)
    failed = next((error for writer in writers if (error := writer.exception())), None)
    if failed:
        raise UnreachableError(f"The store {store.uri} failed when {racers} wrote at once: {failed}")
    won = sum(writer.result() for writer in writers)
    if not won:
        raise UnreachableError(f"The store {store.uri} let none of {racers} writers create a new object.")
    return won


def try_mlflow(uri: str) -> str:
    """A run with an artifact of 1 MB, there and back; a database that is not there yet is not made."""
    from elder.infra.tracking.probe import round_trip
    from elder.infra.tracking.uri import locate

    location = locate(uri)
    if location.database is None or location.database.exists():
        return f"{location.shown}: round trip of 1 MB in {round_trip(uri):.2f} s"
    with kept_clean(location.database.parent):
        location.database.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".elder-doctor-", dir=location.database.parent) as folder:
            seconds = round_trip(folder)
    return f"{location.uri}: will be made by the first run; tried beside it in {seconds:.2f} s"


def try_clock(urls: Sequence[str], ask: Callable[[str], Mapping[str, Any]] = ask_time) -> list[Check]:
    """This machine's clock against those of the servers that tell theirs."""
    skews = {url: answer["ahead_s"] for url in urls if (answer := ask(url))["ahead_s"] is not None}
    if not skews:
        return []
    url, ahead = max(skews.items(), key=lambda item: abs(item[1]))
    return [judge_clock("clock", f"this machine against {url}", ahead, CLOCK_REMEDY)]


def judge_clock(name: str, what: str, ahead_s: float, remedy: str) -> Check:
    """A line for a clock that is so many seconds ahead."""
    text = f"{what}: {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
    if abs(ahead_s) <= SKEW_WARN_S:
        return Check(name, True, text)
    return Check(name, abs(ahead_s) < SKEW_FAIL_S, text, remedy, warn=True)


def servers(store: str | Path | None, s3: Mapping[str, Any] | None, mlflow: str | None) -> dict[str, str]:
    """Name -> the address at which it answers HTTP; directories and sqlite files have none."""
    found = {}
    if store is not None and str(store).startswith("s3://"):
        given = (s3 or {}).get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3")
        region = (s3 or {}).get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        amazon = f"https://s3.{region + '.' if region else ''}amazonaws.com"
        found["store"] = str(given or os.environ.get("AWS_ENDPOINT_URL") or amazon)
    if mlflow is not None and mlflow.startswith(("http://", "https://")):
        from elder.infra.tracking.uri import locate

        found["mlflow"] = f"{locate(mlflow).shown}/health"
    return found


@contextmanager
def kept_clean(place: Path | None) -> Iterator[None]:
    """Remove the folders that a check had to make, when they are empty again."""
    made = [] if place is None else [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                break
