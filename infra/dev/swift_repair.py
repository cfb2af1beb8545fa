"""After a Swift that was ended by force: listings that show what is on the disk.

Swift writes an object first and its line in the bucket's listing afterwards. A process that is killed in between
leaves an object that can be read and is not listed; in a cluster, daemons repair that, which do not run here. Runs
inside the server's process, before it listens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from elder.infra.dev.swift_settings import SwiftSite

OVERRIDE = "X-Object-Sysmeta-Container-Update-Override-"  # what large objects in parts want to be listed as
MARK = "clean"


def was_ended_well(site: SwiftSite) -> bool:
    """Whether the last server of a directory ended in order, or there was none; forgets it."""
    mark, used = site.directory / MARK, (site.directory / "node" / "disk" / "objects").exists()
    ended = mark.exists() or not used
    mark.unlink(missing_ok=True)
    return ended


def ends_well(site: SwiftSite) -> None:
    """Leave a mark for the next server that nothing is to be repaired."""
    (site.directory / MARK).touch()


def list_again(site: SwiftSite) -> int:
    """List every object that is on the disk, and take those from the listings that were deleted.

    What is listed already stays as it is: Swift compares times of writing.

    Returns:
        How many objects were looked at.
    """
    from swift.common.direct_client import direct_delete_container_object, direct_put_container_object
    from swift.common.ring import Ring
    from swift.obj.diskfile import read_metadata

    ring = Ring(str(site.directory / "etc"), ring_name="container")
    files = [path for path in (site.directory / "node" / "disk" / "objects").glob("*/*/*/*") if path.is_file()]
    found = [path for path in files if path.suffix in (".data", ".ts")]
    for path in found:
        metadata = read_metadata(str(path))
        if path.suffix == ".data":
            _update(ring, direct_put_container_object, metadata, _listed_as(metadata))
        else:
            _update(ring, direct_delete_container_object, metadata, {"X-Timestamp": metadata["X-Timestamp"]})
    return len(found)


def _listed_as(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        "X-Timestamp": metadata["X-Timestamp"],
        "X-Size": metadata.get(f"{OVERRIDE}Size", metadata["Content-Length"]),
        "X-Etag": metadata.get(f"{OVERRIDE}Etag", metadata["ETag"]),
        "X-Content-Type": metadata.get(f"{OVERRIDE}Content-Type", metadata["Content-Type"]),
    }


def _update(ring: Any, call: Callable[..., Any], metadata: Mapping[str, str], headers: Mapping[str, str]) -> None:
    _, account, container, name = metadata["name"].split("/", 3)
    part, (node, *_) = ring.get_nodes(account, container)
    own = {**headers, "X-Backend-Storage-Policy-Index": "0"}
    call(node, part, account, container, name, conn_timeout=30, response_timeout=60, headers=own)
