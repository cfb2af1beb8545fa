"""On which network interface the CPU workers of several nodes meet.

torch takes the address that the host's own name resolves to. Debian and Ubuntu let it resolve to 127.0.1.1, where
no other node can reach it, and the group waits until it gives up. Ray knows the address that the nodes really use.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from elder.device import INTERFACE_VARIABLE

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def speak_on(address: str) -> str | None:
    """Make torch use the interface of the node's own address, if the host's name would lead it to the loopback.

    What the user has set is kept. Must be called before the process group is made.

    Args:
        address: The node's IPv4 address as other nodes know it.

    Returns:
        The interface that was chosen; None when torch was left alone.
    """
    if INTERFACE_VARIABLE in os.environ or address.startswith("127.") or not name_is_loopback():
        return None
    name = interface_of(address)
    if name is not None:
        os.environ[INTERFACE_VARIABLE] = name
    return name


def name_is_loopback() -> bool:
    """Whether the host's own name resolves to nothing that another node could reach."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True


def interface_of(address: str) -> str | None:
    """The network interface that holds an IPv4 address; None when there is none, or not on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
