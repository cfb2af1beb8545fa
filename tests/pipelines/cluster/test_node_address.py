"""Which interface the workers of several nodes speak on."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from elder.device import INTERFACE_VARIABLE
from elder.pipelines.cluster import node_address
from elder.pipelines.cluster.node_address import interface_of, name_is_loopback, speak_on

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE_VARIABLE, "x")  # so that it is put back as it was
    monkeypatch.delenv(INTERFACE_VARIABLE)


@linux
def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None


@pytest.mark.parametrize(("found", "loopback"), [("127.0.1.1", True), ("10.1.2.3", False)])
def test_what_the_host_name_resolves_to(monkeypatch: pytest.MonkeyPatch, found: str, loopback: bool) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: found)
    assert name_is_loopback() is loopback


def test_a_debian_host_speaks_on_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_address, "name_is_loopback", lambda: True)
    monkeypatch.setattr(node_address, "interface_of", {"10.1.2.3": "eth7"}.get)
    assert speak_on("127.0.0.1") is None  # a cluster on one machine
    assert speak_on("10.9.9.9") is None
    assert INTERFACE_VARIABLE not in os.environ
    assert speak_on("10.1.2.3") == os.environ[INTERFACE_VARIABLE] == "eth7"


def test_what_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_address, "name_is_loopback", lambda: True)
    monkeypatch.setattr(node_address, "interface_of", lambda address: "eth7")
    monkeypatch.setenv(INTERFACE_VARIABLE, "eth0")
    assert speak_on("10.1.2.3") is None
    assert os.environ[INTERFACE_VARIABLE] == "eth0"


def test_a_host_name_that_others_can_resolve_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_address, "name_is_loopback", lambda: False)
    assert speak_on("10.1.2.3") is None
    assert INTERFACE_VARIABLE not in os.environ
