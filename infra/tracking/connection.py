"""A client of one MLflow address: silent, with errors in our words, and downloads that continue where they broke off.

With `infra/tracking/tracker.py` and `infra/tracking/elder_pyfunc.py` the only file that imports mlflow. Knows
nothing of runs, models or adapters.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from elder.errors import ConfigError, ElderError, InputError, UnreachableError
from elder.infra.tracking.errors import explain, from_database, from_s3
from elder.infra.tracking.mlflow_private import OUT_OF_RANGE, artifact_from
from elder.infra.tracking.uri import Location, check_answers, locate
from elder.once import locked

ABSENT = "RESOURCE_DOES_NOT_EXIST"
CHUNK_BYTES = 1 << 14  # what arrives of a piece that broke off is lost
CONTINUATIONS = 4  # how often one call continues after a connection that broke off
PAUSE_S = 0.2  # before the first of them; doubles


class Connection:
    """A client of one MLflow address, silent, with errors in our words.

    Raises:
        ConfigError: The address is not understood.
        UnreachableError: Nobody answers there.
    """

    def __init__(self, tracking_uri: str | Path) -> None:
        self.location: Location = locate(tracking_uri)
        _check_database(self.location)
        check_answers(self.location)
        with self._explained():
            self._client = self._client_of(self.location)

    @staticmethod
    def _client_of(location: Location) -> MlflowClient:
        """The first client of a sqlite file makes its tables; two that do so at once break each other's."""
        if location.database is None:
            return MlflowClient(location.uri, location.uri)
        with locked(location.database.parent):
            client = MlflowClient(location.uri, location.uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of `MlflowClient`.

        Raises:
            UnreachableError: The server cannot be reached or refuses.
        """
        with self._explained():
            return getattr(self._client, method)(*args, **kwargs)

    def find(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """Like `call`, for one thing by its name; None when there is none."""
        try:
            with self._explained(pass_on=MlflowException):
                return getattr(self._client, method)(*args, **kwargs)
        except MlflowException as error:
            if error.error_code in (ABSENT, "INVALID_PARAMETER_VALUE"):  # the latter: no such name can exist
                return None
            raise self._unreachable(error) from error

    def all(self, method: str, *args: Any, limit: int | None = None, **kwargs: Any) -> list[Any]:
        """All pages of a search, or as many as hold the first `limit` things."""
        found, token = [], None
        while True:
            page = self.call(method, *args, page_token=token, **kwargs)
            found += page
            token = page.token
            if not token or (limit is not None and len(found) >= limit):
                return found[:limit]

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made when it is new.

        Raises:
            InputError: It was deleted.
        """
        found = self.find("get_experiment_by_name", name)
        if found is None:
            artifacts = self.location.artifacts
            place = None if artifacts is None else str(artifacts / re.sub(r"[^\w.-]", "_", name))
            try:
                with self._explained(pass_on=MlflowException):
                    return str(self._client.create_experiment(name, artifact_location=place))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise self._unreachable(error) from error
            found = self.call("get_experiment_by_name", name)
        if found.lifecycle_stage != "active":
            raise InputError(
                f"tracking.experiment: '{name}' was deleted in MLflow. Restore it there, or name another one."
            )
        return str(found.experiment_id)

    def files(self, artifact_location: str, folder: str) -> set[str]:
        """Names below a folder of artifacts, relative to it."""
        with self._explained():
            repository = get_artifact_repository(artifact_location, tracking_uri=self.location.uri)
            found: set[str] = set()
            waiting = [folder]
            while waiting:
                for item in repository.list_artifacts(waiting.pop()):
                    if item.is_dir:
                        waiting.append(item.path)
                    else:
                        found.add(Path(item.path).relative_to(folder).as_posix())
            return found

    def fetch(self, artifact_location: str, name: str, target: Path) -> None:
        """Copy one artifact to a file.

        From a server that passes artifacts on, the copy continues after the bytes that are in the file.

        Raises:
            UnreachableError: The copy broke off; what arrived by HTTP is in the file.
        """
        with self._explained():
            repository = get_artifact_repository(artifact_location, tracking_uri=self.location.uri)
            if isinstance(repository, HttpArtifactRepository):
                _continued(repository, name, target)
            else:
                target.unlink(missing_ok=True)
                repository._download_file(name, str(target))  # type: ignore[no-untyped-call]  # no progress bar

    @contextmanager
    def _explained(self, pass_on: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Silence MLflow's chatter; turn what it raises into one sentence."""
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(max(logger.level, logging.WARNING))
            yield
        except pass_on:
            raise
        except (MlflowException, requests.RequestException, OSError) as error:
            raise self._unreachable(error) from error
        except ElderError:
            raise
        except Exception as error:
            # MLflow's client speaks to a database itself, and in direct mode to S3.
            if from_s3(error) or from_database(error):
                raise self._unreachable(error) from error
            raise
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(explain(error, self.location.shown))


def _check_database(location: Location) -> None:
    """A server is asked by the small mlflow that `pip install elder` brings; a database takes the whole one.

    Raises:
        ConfigError: It is a database, and what reaches it is not installed.
    """
    if location.database is None:
        return
    with suppress(ImportError):
        if importlib.util.find_spec("sqlalchemy") is not None:
            return
    raise ConfigError(
        f"{location.database} is a database of MLflow, which needs mlflow itself: pip install 'elder[tracking]'; or "
        "give the address of a server (--mlflow, MLFLOW_TRACKING_URI, tracking.mlflow)"
    )


def _continued(repository: HttpArtifactRepository, name: str, target: Path) -> None:
    """Download by HTTP; when the connection breaks, ask for the rest of the file."""
    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    tries = Retrying(
        retry=retry_if_exception_type(broken),
        stop=stop_after_attempt(CONTINUATIONS + 1),
        wait=wait_exponential(multiplier=PAUSE_S),
        reraise=True,
    )
    tries(_rest, repository, name, target)


def _rest(repository: HttpArtifactRepository, name: str, target: Path) -> None:
    have = target.stat().st_size if target.exists() else 0
    with artifact_from(repository, name, have) as answer:
        if answer.status_code == OUT_OF_RANGE:  # there is nothing after what we have; its sha256 shows if it is right
            return
        continues = have and answer.status_code == 206
        with target.open("ab" if continues else "wb") as file:  # a server without ranges sends all of it again
            for chunk in answer.iter_content(CHUNK_BYTES):
                file.write(chunk)
