"""Options of the look-up of stored answers. Imports no torch."""

from __future__ import annotations

from typing import Literal

from elder.editors.baselines.retrieval_options import RetrievalOptions
from elder.options.fields import setting


class LookupOptions(RetrievalOptions):
    """Stored answers: the target of the edit that a prompt is about is the answer, word for word."""

    terminator: Literal["none", "eos", "sentence"] = setting(
        "eos", "what is said after the answer: nothing, the end token, or a full stop and the end token"
    )
