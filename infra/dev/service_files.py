"""The files about development services: their processes, ports, keys and overrides.

Everything lies in one directory, so that the services can be found again, and removed without touching what
else lies there. Starts nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elder.errors import ConfigError, UnreachableError
from elder.infra.dev.processes import ProcessRecord
from elder.infra.dev.swift_settings import REGION, SwiftSite, write_private

BUCKET = "elder"
FILES = ("services.json", "env.sh", "overrides.txt", "mlflow.db", "lock")
FOLDERS = ("swift", "logs")
MISLEADING = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@dataclass(frozen=True)
class Service:
    """One server as it was started."""

    name: str
    kind: str  # swift, moto or mlflow
    url: str
    process: ProcessRecord

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


@dataclass(frozen=True)
class Services:
    """Both servers, running. `fresh` names those that the last call started."""

    directory: Path
    site: SwiftSite
    s3: Service
    mlflow: Service
    fresh: tuple[str, ...]

    @property
    def keeps_objects(self) -> bool:
        """Whether objects survive a stop of the S3 server."""
        return self.s3.kind == "swift"

    @property
    def overrides(self) -> list[str]:
        """Of a config, so that a run uses these services."""
        return [
            f"tracking.mlflow={self.mlflow.url}",
            f"tracking.store=s3://{BUCKET}/store",
            f"tracking.s3.endpoint_url={self.s3.url}",
            f"tracking.s3.region={REGION}",
            "tracking.s3.addressing=path",
        ]

    @property
    def exports(self) -> dict[str, str]:
        """Environment variables for those who use the services; two of them are secret."""
        return {**access(self.site), "MLFLOW_TRACKING_URI": self.mlflow.url}

    def write_files(self) -> None:
        """Write `env.sh`, for its owner only, and `overrides.txt`."""
        lines = [f"unset {' '.join(MISLEADING)}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.exports.items()]
        write_private(self.directory / "env.sh", "\n".join(lines) + "\n")
        (self.directory / "overrides.txt").write_text("\n".join(self.overrides) + "\n")


def access(site: SwiftSite) -> dict[str, str]:
    """Environment variables of S3 clients; nobody is asked for a role of a machine in Amazon's cloud."""
    return {**site.credentials, "AWS_EC2_METADATA_DISABLED": "true"}


def is_ours(directory: Path) -> bool:
    """Whether services were ever started in a directory."""
    return (directory / "services.json").exists()


def read_services(directory: Path) -> dict[str, Service]:
    """The services that were started last, by name, whether they run or not.

    Raises:
        ConfigError: The file is damaged.
    """
    path = directory / "services.json"
    if not path.exists():
        return {}
    try:
        return {entry["name"]: _service(**entry) for entry in json.loads(path.read_text())["services"]}
    except (ValueError, TypeError, KeyError) as error:
        reason = f"{path} is damaged; end the servers by hand (their logs are beside it) and remove the file"
        raise ConfigError(reason) from error


def _service(process: Mapping[str, Any], **values: str) -> Service:
    return Service(**values, process=ProcessRecord(**{**process, "command": tuple(process["command"])}))


def record_services(directory: Path, services: Iterable[Service]) -> None:
    """Write down what was started, at once, so that it can be ended whatever happens next."""
    text = json.dumps({"services": [asdict(service) for service in services]}, indent=1)
    write_private(directory / "services.json", text + "\n")


def remove_all(directory: Path) -> None:
    """Remove data and files of the services; what else lies in the directory stays."""
    for name in FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else lies there
        directory.rmdir()


@contextmanager
def sole_user(directory: Path) -> Iterator[None]:
    """Keep a second `elder up` or `elder down` out.

    Raises:
        UnreachableError: One is at work.
    """
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnreachableError(f"another `elder up` or `elder down` is at work in {directory}") from error
        yield
