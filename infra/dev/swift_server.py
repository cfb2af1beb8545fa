"""OpenStack Swift as one process on loopback that speaks S3: `python -m elder.infra.dev.swift_server DIR`.

For development and tests: one replica, no background daemons, storage servers without passwords on loopback.
With `infra/dev/swift_repair.py` the only file that imports swift, and only when it runs. Knows nothing of
elder's objects.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from elder.errors import ConfigError, UnreachableError
from elder.infra.dev.swift_repair import ends_well, list_again, was_ended_well
from elder.infra.dev.swift_settings import HOST, STORAGE, SwiftSite, missing_support, prepare, write_configuration

PARTITION_POWER = 4  # 16 partitions: part of every path on disk, never to be changed
GRACE_S = 5  # for requests that are being answered when the server is asked to end
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class SoleCreators:
    """A filter that lets one conditional write of a path happen after the other.

    Swift looks whether an object exists when a write begins and not when it ends, so that of several
    simultaneous `If-None-Match: *` more than one may succeed. With one proxy process a lock a path mends that.
    """

    def __init__(self, app: WsgiApp, make_lock: Callable[[], Any]) -> None:
        self._app, self._make_lock = app, make_lock
        self._locks: dict[str, list[Any]] = {}  # path -> [lock, how many hold it or wait for it]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a request on; a conditional one when it is the only one of its path."""
        if environ["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environ:
            return self._app(environ, start_response)
        path = environ["PATH_INFO"]
        entry = self._locks.setdefault(path, [self._make_lock(), 0])
        entry[1] += 1
        try:
            with entry[0]:
                return list(self._app(environ, start_response))
        finally:
            entry[1] -= 1
            if not entry[1]:
                self._locks.pop(path, None)


def serve(site: SwiftSite, host: str = HOST) -> NoReturn:
    """Run until SIGTERM or SIGINT, then end the process; requests that are being answered have some seconds.

    Args:
        site: The site.
        host: Address at which S3 clients are answered; the storage servers stay on loopback.

    Raises:
        UnreachableError: The port is taken, or another process serves this directory.
        ConfigError: Swift is not installed, or the file system does not take its metadata.
    """
    problem = missing_support(site.directory)
    if problem:
        raise ConfigError(problem)
    with (site.directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnreachableError(f"another process serves {site.directory}; end it first") from error
        _run(site, host)


def _run(site: SwiftSite, host: str) -> NoReturn:
    from swift.common.utils import get_hub, get_logger, monkey_patch, set_swift_dir
    from swift.common.wsgi import eventlet

    eventlet.hubs.use_hub(get_hub())
    monkey_patch()
    front = _listen(host, site.port)
    storage = {name: _listen(HOST, 0) for name in STORAGE}
    write_configuration(site, {name: sock.getsockname()[1] for name, sock in storage.items()})
    etc = site.directory / "etc"
    set_swift_dir(str(etc))
    # The first logger decides that all write to the error output.
    get_logger({"log_udp_host": HOST, "log_udp_port": "9", "log_level": "WARNING"}, "swift", log_to_console=True)
    for name, sock in storage.items():
        _write_ring(etc / f"{name}.ring.gz", sock.getsockname()[1])
    for name, sock in storage.items():
        eventlet.spawn(_answer, sock, _load(etc / f"{name}.conf"), eventlet.GreenPool())
    if not was_ended_well(site):
        list_again(site)
    pool = eventlet.GreenPool()
    app = SoleCreators(_load(etc / "proxy.conf"), eventlet.semaphore.Semaphore)
    door = eventlet.spawn(_answer, front, app, pool)
    _until_signal(eventlet)
    front.close()
    door.kill()
    with eventlet.Timeout(GRACE_S, False):
        pool.waitall()
    ends_well(site)
    os._exit(0)  # the storage servers have nothing to put in order: what was answered is on the disk


def _answer(sock: Any, app: WsgiApp, pool: Any) -> None:
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.wsgi import NullLogger, wsgi

    # Header names keep their spelling: S3 clients look for ETag, not Etag. eventlet warns of that.
    warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
    wsgi.server(
        sock, app, NullLogger(), custom_pool=pool, protocol=SwiftHttpProtocol, capitalize_response_headers=False
    )


def _load(path: Path) -> WsgiApp:
    from swift.common.wsgi import loadapp

    app: WsgiApp = loadapp(str(path))
    return app


def _listen(host: str, port: int) -> Any:
    from swift.common.wsgi import eventlet

    try:
        return eventlet.listen((host, port), reuse_port=False)
    except OSError as error:
        raise UnreachableError(f"port {port} of {host} cannot be used: {error.strerror}") from error


def _write_ring(path: Path, port: int) -> None:
    from swift.common.ring.builder import RingBuilder

    builder = RingBuilder(PARTITION_POWER, 1, 1)
    place = {"region": 1, "zone": 1, "ip": HOST, "port": port, "device": "disk", "weight": 1.0, "meta": ""}
    builder.add_dev({**place, "replication_ip": HOST, "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _until_signal(eventlet: Any) -> None:
    ended, end = os.pipe()  # a sleeping event loop is woken by what it can read, not by a signal alone
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(end, b"."))
    eventlet.hubs.trampoline(ended, read=True)


def main(arguments: list[str] | None = None) -> int:
    """Serve a directory; where to listen and who may come in is what was kept there, unless an option is given."""
    parser = argparse.ArgumentParser(prog="python -m elder.infra.dev.swift_server", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, help="default: the port of last time, or a free one")
    parser.add_argument("--host", default=HOST, help=f"default {HOST}; another one only inside a container")
    parser.add_argument("--keys-from-environment", action="store_true", help="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    given = parser.parse_args(arguments)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keys = tuple(os.environ.get(name) for name in names) if given.keys_from_environment else (None, None)
    try:
        if given.keys_from_environment and not all(keys):
            raise ConfigError(f"--keys-from-environment: set {' and '.join(names)}")
        serve(prepare(given.directory, given.port, *keys), given.host)
    except (ConfigError, UnreachableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 3


if __name__ == "__main__":
    sys.exit(main())
