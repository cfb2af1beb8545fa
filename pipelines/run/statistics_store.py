"""Statistics of base models in the store of the runs: `statistics/ID.safetensors`, named by what they were taken of.

Every run on the store finds them. Knows nothing of how they are taken.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from elder.pipelines.protocols import Store
from elder.pipelines.run.requirements import STATISTICS
from elder.solvers.moments import SecondMoment
from elder.targets.moment_cache import file_name, read_moment, write_moment


class StoreMoments:
    """A `MomentCache` in a store. An object appears whole or not at all, and proves its content by its own sha256.

    Args:
        store: Any store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, id: str) -> SecondMoment | None:
        """See `MomentCache.load`.

        Raises:
            AdapterError: It is damaged.
            UnreachableError: The store does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file_name(id)
            try:
                self._store.download(moment_key(id), path)
            except KeyError:
                return None
            return read_moment(path, id)

    def save(self, id: str, moment: SecondMoment) -> None:
        """See `MomentCache.save`.

        Raises:
            UnreachableError: The store does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / file_name(id)
            write_moment(path, id, moment)
            self._store.put(moment_key(id), path)


def moment_key(id: str) -> str:
    """The key of a moment below the store's root."""
    return f"{STATISTICS}/{file_name(id)}"
