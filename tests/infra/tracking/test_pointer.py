"""Whom a pointer is followed to: the store and the server that are named here, and nobody else. Nothing is fetched."""

from __future__ import annotations

from typing import Any

import pytest

from elder.errors import InputError
from elder.infra.tracking.pointer import S3_ENDPOINTS, STORE_VARIABLE, Pointer, trusted_settings

STORE = "s3://bucket/team"


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (STORE_VARIABLE, *S3_ENDPOINTS):
        monkeypatch.delenv(name, raising=False)


def settings(address: str, store: str | None = STORE, pointed: Any = None, **given: Any) -> dict[str, Any]:
    return trusted_settings(Pointer(address, {}, pointed or {}), "models:/x/1", store, given)


def test_what_lies_in_the_configured_store_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("s3://bucket/team/runs/r/stages/000001/a") == {"endpoint_url": None}
    assert settings(STORE) == {"endpoint_url": None}
    monkeypatch.setenv(STORE_VARIABLE, STORE)
    assert settings("s3://bucket/team/runs/r", store=None) == {"endpoint_url": None}


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/teammates/runs/r", "s3://bucket/team2", "s3://bucket/other", "s3://bucket", "s3://buckets/team/r",
        "s3://bucket/team/../other/r", "s3://bucket/team/runs/../../other", "/tmp/adapter", "file:///bucket/team",
    ],
)  # fmt: skip
def test_what_lies_elsewhere_is_not(address: str) -> None:
    with pytest.raises(InputError, match="the store that is configured here is s3://bucket/team"):
        settings(address)
    with pytest.raises(InputError, match="the store that is configured here is none"):
        settings(address, store=None)


def test_a_directory_is_left_by_no_address(tmp_path: Any) -> None:
    root = tmp_path / "store"
    assert settings(str(root / "runs" / "r"), store=str(root)) == {"endpoint_url": None}
    for address in (f"{root}2/runs", f"{root}/../secret", str(tmp_path), "/etc"):
        with pytest.raises(InputError, match="configured here is"):
            settings(address, store=str(root))


def test_only_the_server_that_is_named_here_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pointer's own server would be shown our credentials; so would its profile."""
    elsewhere = {"endpoint_url": "http://elsewhere:9000", "profile": "admin", "addressing": "path"}
    address = f"{STORE}/runs/r"
    with pytest.raises(InputError, match="lies on the server http://elsewhere:9000, and none is configured here"):
        settings(address, pointed=elsewhere)
    ours = {"endpoint_url": "http://ours:9000", "addressing": "path"}
    assert settings(address, pointed=elsewhere, endpoint_url="http://ours:9000") == ours
    monkeypatch.setenv(S3_ENDPOINTS[0], "http://ours:9000")
    assert settings(address, pointed=elsewhere) == ours
