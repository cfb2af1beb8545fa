"""The check of facts before a training. Imports no torch: they are checked where a training is submitted too."""

from __future__ import annotations

from collections.abc import Sequence

from elder.edit import Edit
from elder.errors import DataError


def check_facts(edits: Sequence[Edit]) -> None:
    """Every fact needs a rephrase and an unrelated prompt.

    Raises:
        DataError: Some have none; all of them are named.
    """
    wrong = [f"edit {e.id} ('{e.prompt[:60]}'): training needs a rephrase" for e in edits if not e.rephrases]
    wrong += [f"edit {e.id} ('{e.prompt[:60]}'): training needs a locality prompt" for e in edits if not e.locality]
    if not edits:
        wrong = ["there are no facts to train on"]
    if wrong:
        raise DataError(wrong)
