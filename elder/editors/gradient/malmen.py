"""MALMEN (arXiv 2311.04661): shifts of all tokens, fitted by one ridge regression in every map."""

from __future__ import annotations

from elder.editors.gradient.trained_editor import TrainedEditor


class MalmenEditor(TrainedEditor):
    """W^T <- W^T + (U^T U + lam I)^-1 U^T T, the shifts T being a trained network's."""

    method = "malmen"
