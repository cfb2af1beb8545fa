"""Background processes that are found again later, and ended without touching anybody else's.

A process is known by its number, the time it began, its command line and a mark in its environment, which its
children inherit. The one file that imports psutil. Knows nothing of what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "ELDER_SERVICE_MARK"
CLOCK_S = 2.0  # the time at which a process began is counted from a boot time that clocks correct
GRACE_S = 15.0  # between the request to end and the end by force


@dataclass(frozen=True)
class ProcessRecord:
    """A process that was started here, as it is written down."""

    pid: int
    began: float
    command: tuple[str, ...]
    mark: str


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> ProcessRecord:
    """Start a process that outlives this one, in a new session; its output is appended to `log`."""
    import psutil

    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**environment, MARK: mark},
            start_new_session=True,
        )
    began = 0.0
    with contextlib.suppress(psutil.Error):  # it ended at once; its log says why
        child = psutil.Process(process.pid)
        began = child.create_time()
        while not child.cmdline() and not _is_dead(child):
            time.sleep(0.001)  # the system shows the command line a moment after the start
    return ProcessRecord(process.pid, began, tuple(command), mark)


def is_running(record: ProcessRecord) -> bool:
    """Whether exactly this process runs, and not another one that was given its number."""
    return _leader(record) is not None


def end(record: ProcessRecord, grace_s: float = GRACE_S) -> bool:
    """End a process and its children, politely at first; others are left alone, whatever their number.

    Returns:
        Whether there was anything to end.
    """
    import psutil

    found = family(record)
    for process in found:
        _send(process, signal.SIGTERM)
        _send(process, signal.SIGCONT)  # one that was stopped could not hear it
    _, stubborn = psutil.wait_procs(found, timeout=grace_s)
    for process in {*stubborn, *family(record)}:
        _send(process, signal.SIGKILL)
    psutil.wait_procs([*stubborn, *family(record)], timeout=grace_s)
    return bool(found)


def family(record: ProcessRecord) -> list[Any]:
    """The processes that came from one start: the first one, if it lives, and all that carry its mark."""
    import psutil

    leader = _leader(record)
    found = {} if leader is None else {leader.pid: leader}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile, or another user's
            if process.pid != os.getpid() and process.environ().get(MARK) == record.mark and not _is_dead(process):
                found[process.pid] = process
    return list(found.values())


def _leader(record: ProcessRecord) -> Any:
    import psutil

    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.began) <= CLOCK_S and tuple(process.cmdline()) == record.command
        return process if same and not _is_dead(process) else None
    except psutil.Error:
        return None


def _is_dead(process: Any) -> bool:
    """Whether it has ended and only waits for its parent to notice."""
    import psutil

    return bool(process.status() == psutil.STATUS_ZOMBIE)


def _send(process: Any, number: signal.Signals) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)  # psutil looks once more whether the number was given to another process
