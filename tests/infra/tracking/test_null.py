"""The tracker that keeps nothing obeys the contract too."""

from __future__ import annotations

import pytest

from elder.infra.tracking.null import NullTracker
from tests.contracts.tracker import TrackerContract


class TestNullTracker(TrackerContract):
    @pytest.fixture
    def tracker(self) -> NullTracker:
        return NullTracker()
