"""What tests of several folders share: the S3 server with real signatures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.swift import SwiftServer, swift

FOREIGN = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN")


@pytest.fixture(scope="session")
def swift_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """One Swift for all tests of the session."""
    with swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def swift_server(swift_session: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> SwiftServer:
    """The session's Swift, running, its keys in the environment of this process and no other AWS configuration."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in swift_session.access.items():
        monkeypatch.setenv(name, value)
    swift_session.start()  # a test that stopped it may have failed before it started it again
    return swift_session
