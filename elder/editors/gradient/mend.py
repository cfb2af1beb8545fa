"""MEND (arXiv 2110.11309): changed gradient factors, added up over tokens and edits."""

from __future__ import annotations

from elder.editors.gradient.trained_editor import TrainedEditor
from elder.hyper.maps import last_layers


class MendEditor(TrainedEditor):
    """W <- W - eta sum gh uh^T. Opposite changes cancel: it is made for few edits at a time."""

    method = "mend"

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The last three blocks, as the paper edits."""
        return last_layers(depth, 3)
