"""Our own layout: the fields of `Edit`, as docs/data.md describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import LayoutOptions
from elder.edit import Edit

FIELDS = frozenset({"prompt", "target"})


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one record. The options do not matter: what the user wrote is kept whole.

    Raises:
        DataError: A field is missing, empty, unknown or of the wrong type.
    """
    return Edit.from_dict(record, _NOWHERE)


_NOWHERE = ""
