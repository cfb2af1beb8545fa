"""Settings of a one-machine OpenStack Swift that speaks S3: ports, keys and the configuration files it reads.

For development and tests. Plain files and values; imports nothing of Swift, starts nothing. The secret key is
kept in files that only their owner may read, and is in no message and no representation.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elder.errors import ConfigError

HOST = "127.0.0.1"
REGION = "us-east-1"  # signatures carry a region; this is the one that clients without a region use
ACCOUNT = "elder"
STORAGE = ("account", "container", "object")  # the servers that the proxy asks
XATTR_BYTES = 3000  # Swift keeps the metadata of an object in extended attributes of its file
PIPELINE = "catch_errors listing_formats bulk s3api tempauth copy slo dlo proxy-server"


@dataclass(frozen=True)
class SwiftSite:
    """One Swift with its data: where it lies, where it listens, who may use it."""

    directory: Path
    port: int
    access_key: str
    secret_key: str = field(repr=False)
    hash_seed: str = field(repr=False)  # part of every path on disk: must never change

    @property
    def endpoint(self) -> str:
        """Address for S3 clients."""
        return f"http://{HOST}:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        """Environment variables that S3 clients read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }


def missing_support(directory: Path) -> str | None:
    """Why Swift cannot keep its data in a directory, or None if it can.

    Swift must be installed, and the file system must take user extended attributes.
    """
    if importlib.util.find_spec("swift") is None:
        return "OpenStack Swift is not installed: pip install swift"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory) as probe:
        try:
            os.setxattr(probe.name, "user.elder", b"x" * XATTR_BYTES)
        except OSError as error:
            return (
                f"the file system of {directory} takes no user extended attributes ({error.strerror}), in which "
                "Swift keeps metadata: choose a directory on ext4, xfs or btrfs"
            )
    return None


def prepare(
    directory: Path, port: int | None = None, access_key: str | None = None, secret_key: str | None = None
) -> SwiftSite:
    """The site of a directory: the one that was made there before, or a new one.

    A site keeps its port, keys and data for ever, so that a server which is started again is found at the same
    address. What is given here replaces what was kept.

    Args:
        directory: Everything of this Swift lies below it.
        port: Where S3 clients find it; a new site takes a free one.
        access_key: `elder:NAME`; generated when left out.
        secret_key: Generated when left out.

    Raises:
        ConfigError: The access key has another form, or the kept settings are damaged.
    """
    directory = directory.resolve()
    for folder in (directory, directory / "etc", directory / "node" / "disk"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    site = _kept(directory) or SwiftSite(
        directory,
        port or free_port(),
        f"{ACCOUNT}:{secrets.token_hex(6)}",
        secrets.token_urlsafe(30),
        secrets.token_hex(8),
    )
    given: dict[str, Any] = {"port": port, "access_key": access_key, "secret_key": secret_key}
    site = replace(site, **{name: value for name, value in given.items() if value})
    _check_keys(site)
    kept = {name: value for name, value in vars(site).items() if name != "directory"}
    write_private(directory / "site.json", json.dumps(kept, indent=1))
    return site


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def write_configuration(site: SwiftSite, ports: Mapping[str, int]) -> None:
    """Write what Swift reads at its start.

    Args:
        site: The site.
        ports: Of the three storage servers. They are chosen anew at every start; data do not depend on them.
    """
    etc = site.directory / "etc"
    write_private(
        etc / "swift.conf",
        _section("swift-hash", swift_hash_path_prefix=site.hash_seed, swift_hash_path_suffix=site.hash_seed)
        + _section("storage-policy:0", name="disk", default="yes"),
    )
    for name in STORAGE:
        write_private(
            etc / f"{name}.conf",
            _section("DEFAULT", bind_port=ports[name], devices=site.directory / "node", **_common(etc))
            + _section("pipeline:main", pipeline=f"{name}-server")
            + _section(f"app:{name}-server", use=f"egg:swift#{name}", **_patience()),
        )
    write_private(etc / "proxy.conf", _proxy(site, etc))


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read; it is never there half written."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:  # made with mode 600
        file.write(text)
    os.replace(file.name, path)


def _kept(directory: Path) -> SwiftSite | None:
    path = directory / "site.json"
    if not path.exists():
        return None
    try:
        return SwiftSite(directory, **json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged; put it back, or remove {directory} with all its data") from error


def _check_keys(site: SwiftSite) -> None:
    account, _, user = site.access_key.partition(":")
    if account != ACCOUNT or not user.replace("-", "").isalnum():
        raise ConfigError(f"the access key must be {ACCOUNT}:NAME with a NAME of letters, digits and -")
    if not site.secret_key or any(char.isspace() for char in site.secret_key):
        raise ConfigError("the secret key must not be empty or contain spaces")


def _proxy(site: SwiftSite, etc: Path) -> str:
    _, user = site.access_key.split(":")
    text = _section("DEFAULT", bind_port=site.port, **_common(etc))
    text += _section("pipeline:main", pipeline=PIPELINE)
    # One node that is busy for a moment must not be left out for a minute, as in a cluster with others to ask.
    text += _section(
        "app:proxy-server",
        use="egg:swift#proxy",
        account_autocreate="true",
        error_suppression_interval=0,
        error_suppression_limit=1_000_000,
        **_patience(),
    )
    text += _section("filter:s3api", use="egg:swift#s3api", location=REGION, dns_compliant_bucket_names="false")
    text += _section(
        "filter:tempauth", use="egg:swift#tempauth", **{f"user_{ACCOUNT}_{user}": f"{site.secret_key} .admin"}
    )
    plain = ("catch_errors", "listing_formats", "bulk", "copy", "slo", "dlo")
    return text + "".join(_section(f"filter:{name}", use=f"egg:swift#{name}") for name in plain)


def _common(etc: Path) -> dict[str, object]:
    # Swift writes to the machine's log by default; the datagrams to port 9 (discard) reach nobody,
    # and its messages go to the error output of the process.
    return {
        "bind_ip": HOST,
        "swift_dir": etc,
        "mount_check": "false",
        "disable_fallocate": "true",
        "log_level": "WARNING",
        "log_udp_host": HOST,
        "log_udp_port": 9,
    }


def _patience() -> dict[str, object]:
    # A listing must show what was written before. After these times Swift answers and lets listings follow
    # later, by a process that does not run here; the usual 0.5 to 3 s are short for a busy machine.
    return {"conn_timeout": 30, "node_timeout": 120, "container_update_timeout": 120}


def _section(name: str, /, **options: object) -> str:
    lines = [f"{key} = {value}" for key, value in options.items()]
    return "\n".join([f"[{name}]", *lines, "", ""])
