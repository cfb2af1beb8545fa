"""Which facts of a stream a base model knows, as it lies in a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from elder.errors import AdapterError
from elder.pipelines.protocols import Store

FORMAT = 1


@dataclass(frozen=True)
class KnownRecord:
    """Which facts of a stream the base model knew when the run was begun.

    Attributes:
        dataset: Digest of the stream that it was asked about.
        base: Digest of the model.
        kept: Indices of the facts that it knows.
        said: Index -> its answer, of the others that it was asked about.
        asked: How many it was asked about, from the first on.
    """

    dataset: str
    base: str
    kept: Sequence[int]
    said: Mapping[str, str]
    asked: int

    def to_json(self) -> bytes:
        """As it lies in the store."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1).encode()

    @classmethod
    def read(cls, store: Store, key: str) -> KnownRecord | None:
        """What lies under a key; None if nothing does.

        Raises:
            AdapterError: It is damaged or of another format.
        """
        try:
            record = json.loads(store.get(key))
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**record)
        except KeyError as error:
            if not store.exists(key):
                return None
            raise AdapterError(f"{key} is damaged: {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise AdapterError(f"{key} is damaged or was written by another version of elder: {error}") from error
