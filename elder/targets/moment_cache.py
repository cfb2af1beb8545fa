"""Second moments on disk: one file each, named by its origin, and checked by its sha256 when it is read.

Knows nothing of models; `elder.targets.statistics` makes the names.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Protocol

from elder.errors import AdapterError
from elder.paths import user_path
from elder.solvers.moments import MOMENT_STATE, SecondMoment
from elder.state import state_digest
from elder.tensor_files import open_safetensors, write_tensors

FORMAT = "1"


class MomentCache(Protocol):
    """A store of moments by the id of their content. One rank asks it for all."""

    def load(self, id: str) -> SecondMoment | None:
        """The moment of this id, on the CPU; None when it is not there.

        Raises:
            AdapterError: It is there, but damaged; the caller collects it again and saves it.
        """

    def save(self, id: str, moment: SecondMoment) -> None:
        """Keep a moment; one of this id that is there already is replaced."""


class DirectoryMoments:
    """Moments in a directory, which is made by the first save: `editor.moments = DirectoryMoments("moments/")`.

    Args:
        directory: May be shared; files appear whole or not at all.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = user_path(directory)

    def load(self, id: str) -> SecondMoment | None:
        """See `MomentCache.load`."""
        path = self.directory / file_name(id)
        return read_moment(path, id) if path.is_file() else None

    def save(self, id: str, moment: SecondMoment) -> None:
        """See `MomentCache.save`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f".{id}.{uuid.uuid4().hex}"
        try:
            write_moment(partial, id, moment)
            os.replace(partial, self.directory / file_name(id))
        finally:
            partial.unlink(missing_ok=True)


def file_name(id: str) -> str:
    """The name of a moment's file."""
    return f"{id}.safetensors"


def write_moment(path: Path, id: str, moment: SecondMoment) -> None:
    """Write sum and count, and beside them the id and their sha256."""
    state = moment.state_dict()
    write_tensors(state, path, metadata={"format": FORMAT, "id": id, "sha256": state_digest(state)})


def read_moment(path: Path, id: str) -> SecondMoment:
    """Read what `write_moment` wrote.

    Raises:
        AdapterError: It is damaged, of another format, or the moment of something else.
    """
    try:
        with open_safetensors(path) as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except AdapterError as error:
        raise AdapterError(f"the statistics {id[:12]} cannot be read: {error}") from error
    if about.get("format") != FORMAT or about.get("id") != id or set(state) != set(MOMENT_STATE):
        raise AdapterError(f"the statistics {id[:12]} are of another format, or of something else")
    if state_digest(state) != about.get("sha256"):
        raise AdapterError(f"the statistics {id[:12]} are damaged: their sha256 is not what was written")
    return SecondMoment.from_state(state)
