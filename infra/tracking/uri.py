"""Where MLflow lives: from what a user writes to an address, and whether a server answers there.

Does not import mlflow, so that the command line can ask in no time.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from elder.errors import ConfigError, UnreachableError
from elder.paths import user_path

SQLITE = "sqlite:///"
SUFFIXES = (".db", ".sqlite", ".sqlite3")
PROBE_S = 5.0


@dataclass(frozen=True)
class Location:
    """An MLflow address.

    Attributes:
        uri: `http(s)://...`, or `sqlite:////ABSOLUTE/FILE`.
        artifacts: Directory for artifacts beside a sqlite file; None where the server decides.
    """

    uri: str
    artifacts: Path | None = None

    @property
    def shown(self) -> str:
        """The address for messages and pages, without the user and password that it may hold."""
        scheme, separator, rest = self.uri.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if self.artifacts is None else self.uri

    @property
    def database(self) -> Path | None:
        """The sqlite file; None for a server."""
        return None if self.artifacts is None else Path(self.uri.removeprefix(SQLITE))

    @property
    def command(self) -> str | None:
        """The command that shows a sqlite file; None for a server, which has its own page."""
        return None if self.artifacts is None else f"mlflow ui --backend-store-uri {self.uri}"


def locate(text: str | Path) -> Location:
    """Understand an address: a server, a sqlite address, a file that ends in .db, or a directory.

    A directory, which need not exist, holds `mlflow.db` and `artifacts/`; a file has its artifacts beside
    it in `NAME-artifacts/`.

    Raises:
        ConfigError: Something else.
    """
    given = str(text)
    if given.startswith(("http://", "https://")):
        return Location(given.rstrip("/"))
    if given.startswith(SQLITE):
        return _beside(Path(given.removeprefix(SQLITE)))
    path = Path(unquote(urlsplit(given).path) if given.startswith("file:") else given)
    if not given or ("://" in given and not given.startswith("file:")):
        raise ConfigError(f"tracking.mlflow: expected http(s)://HOST:PORT, sqlite:///FILE or a path, found {given!r}")
    path = user_path(path, ConfigError)
    if path.suffix in SUFFIXES or path.is_file():
        return _beside(path)
    return Location(f"{SQLITE}{path.absolute() / 'mlflow.db'}", path.absolute() / "artifacts")


def check_answers(location: Location) -> None:
    """Ask a server whether it is there, or make the folder of a sqlite file; a matter of seconds at most.

    MLflow's own client would try for minutes.

    Raises:
        UnreachableError: Nobody answers, or the folder cannot be made.
    """
    if location.database is not None:
        try:
            location.database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(
                f"MLflow's database {location.database} cannot be made: {error.strerror}. Correct tracking.mlflow."
            ) from error
        return
    try:
        with urllib.request.urlopen(f"{location.shown}/health", timeout=PROBE_S):
            pass
    except urllib.error.HTTPError:
        pass  # whatever it says, it answers; the client will tell what it does not like
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"The MLflow server {location.shown} does not answer: {reason}. "
            "Start it, or correct tracking.mlflow (MLFLOW_TRACKING_URI, --mlflow)."
        ) from error


def _beside(database: Path) -> Location:
    database = user_path(database, ConfigError).absolute()
    return Location(f"{SQLITE}{database}", database.with_name(f"{database.stem}-artifacts"))
