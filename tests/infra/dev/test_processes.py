"""Background processes: found again, ended with their children, and never mistaken for another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from elder.infra.dev.processes import ProcessRecord, end, family, is_running, start
from elder.infra.dev.service_files import Service, read_services, record_services

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
POLITE = f"""
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("goodbye", flush=True)))
print("up", flush=True)
{SLEEP}
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], ProcessRecord]]:
    """Start a piece of Python and wait until it prints, if it does."""
    records: list[ProcessRecord] = []

    def run(code: str, prints: bool = False) -> ProcessRecord:
        log = tmp_path / f"{len(records)}.log"
        records.append(start([sys.executable, "-c", code], os.environ, log))
        until(lambda: not prints or bool(log.read_text().strip()))
        return records[-1]

    yield run
    for record in records:
        end(record, grace_s=0.2)


def until(condition: Callable[[], bool], patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_it_runs_and_is_ended(started: Callable[..., ProcessRecord]) -> None:
    record = started(SLEEP)
    assert is_running(record)
    assert end(record)
    assert not is_running(record)
    assert not end(record)


def test_a_record_survives_a_file(started: Callable[..., ProcessRecord], tmp_path: Path) -> None:
    service = Service("s3", "moto", "http://127.0.0.1:1", started(SLEEP))
    record_services(tmp_path, [service])
    assert read_services(tmp_path) == {"s3": service}


def test_children_end_too_even_those_that_left_the_group(started: Callable[..., ProcessRecord], tmp_path: Path) -> None:
    record = started(PARENT, prints=True)
    child = int((tmp_path / "0.log").read_text())
    assert {process.pid for process in family(record)} == {record.pid, child}
    end(record)
    until(lambda: not alive(child))


def test_children_of_a_dead_parent_are_found(started: Callable[..., ProcessRecord], tmp_path: Path) -> None:
    record = started(PARENT, prints=True)
    child = int((tmp_path / "0.log").read_text())
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not is_running(record))
    assert alive(child)
    assert end(record)
    until(lambda: not alive(child))


def test_who_does_not_listen_is_ended_by_force(started: Callable[..., ProcessRecord]) -> None:
    record = started(STUBBORN, prints=True)
    end(record, grace_s=0.3)
    assert not is_running(record)


def test_who_was_stopped_hears_it_too(started: Callable[..., ProcessRecord], tmp_path: Path) -> None:
    record = started(POLITE, prints=True)
    os.kill(record.pid, signal.SIGSTOP)
    end(record)
    assert (tmp_path / "0.log").read_text().split() == ["up", "goodbye"]


@pytest.mark.parametrize("difference", ["time", "command"])
def test_a_number_that_now_belongs_to_another_is_left_alone(
    started: Callable[..., ProcessRecord], difference: str
) -> None:
    """The other process has our number; once it began at another time, once it is another program."""
    ours = started(SLEEP)
    end(ours)
    other = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        began = psutil.Process(other.pid).create_time()
        until(lambda: tuple(psutil.Process(other.pid).cmdline()) == ours.command)  # the same words
        if difference == "time":
            stale = replace(ours, pid=other.pid, began=began - 3600)
        else:
            stale = replace(ours, pid=other.pid, began=began, command=(*ours.command[:-1], "another program"))
        assert not is_running(stale)
        assert not end(stale)
        assert other.poll() is None
        assert is_running(replace(ours, pid=other.pid, began=began)), "only the difference saved it"
    finally:
        other.kill()
        other.wait()


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
