"""One thread a process, two processes side by side, and what both leave behind; `tests/session.py` has the servers."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

# Before torch is imported, here and in what tests start. The models of the tests are so small that a second thread only
# waits for the first one: on a busy machine it takes ten times the processor time.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

pytest_plugins = ["tests.side_by_side", "tests.session"]
# Before the plugins are imported, so that pytest explains what they assert.
pytest.register_assert_rewrite("tests.contracts.store", "tests.contracts.tracker")


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C means something again, and worlds have a home of this session's own, here and in what tests start.

    A shell ignores Ctrl-C for what runs in its background, and a program that begins so leaves it ignored. A trained
    world is most of a minute's work: all tests of all processes share one, which is made by whoever comes first.
    """
    settings.register_profile("busy", deadline=None)  # how long an example takes is the machine's affair
    settings.load_profile("busy")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "ELDER_HOME" not in os.environ:  # processes of pytest-xdist get that of the one that starts them
        os.environ["ELDER_HOME"] = tempfile.mkdtemp(prefix="elder-home-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop("ELDER_HOME"), ignore_errors=True))


def pytest_collection_finish() -> None:
    """What is alive now (libraries, mostly) is left out of later collections of garbage.

    The product collects behind each of its runs, which takes half a second with all libraries loaded.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same behind each file: some libraries are loaded by the tests that need them."""
    if nextitem is None or nextitem.path != item.path:
        pytest_collection_finish()
