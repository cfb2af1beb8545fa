"""Development services on loopback, an S3 server and an MLflow server: start, find again, repair, end.

The S3 server is OpenStack Swift, with its data on disk and real signatures; where Swift is not installed it is
moto, which keeps everything in memory and takes any signature. Knows nothing of runs.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elder.errors import ConfigError, UnreachableError
from elder.infra.dev.processes import end, family, is_running, start
from elder.infra.dev.service_files import (
    BUCKET,
    Service,
    Services,
    access,
    is_ours,
    read_services,
    record_services,
    remove_all,
    sole_user,
)
from elder.infra.dev.swift_settings import HOST, REGION, SwiftSite, free_port, missing_support, prepare

S3, MLFLOW = "s3", "mlflow"
PATIENCE_S = 120.0
FOREIGN = ("AWS_", "MLFLOW_", "ELDER_SERVICE_")  # settings of the user's own that would lead the servers astray
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
Say = Callable[[str], None]


def bring_up(
    directory: Path,
    environment: Mapping[str, str],
    s3_port: int | None = None,
    mlflow_port: int | None = None,
    say: Say = lambda text: None,
) -> Services:
    """Start what does not run yet and wait until both answer.

    What runs and answers is left as it is; what is there only half is ended and started again. When a start
    fails, what this call had started is ended again.

    Args:
        directory: Where everything about the services lies; made when it is absent.
        environment: Of the servers; settings of AWS and MLflow are taken out of it.
        s3_port: Where the S3 server listens; default: the port of last time, or a free one.
        mlflow_port: The same for MLflow.
        say: Receives a line about each step.

    Raises:
        ConfigError: A server's package is not installed, or a port differs from the running server's.
        UnreachableError: A port is taken, a server does not come up, or somebody else is at work here.
    """
    directory = directory.resolve()
    _check_installed()
    directory.mkdir(parents=True, exist_ok=True)
    with sole_user(directory):
        before = read_services(directory)
        _check_ports_agree(before, {S3: s3_port, MLFLOW: mlflow_port})
        kept = {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}
        starter = _Starter(directory, kept, say, dict(before))
        try:
            services = _both(starter, s3_port, mlflow_port)
        except BaseException:
            starter.undo()
            raise
        services.write_files()
    return services


def take_down(directory: Path, purge: bool = False, say: Say = lambda text: None) -> list[str]:
    """End the services of a directory, and nothing else; the data stay unless `purge` is set.

    Returns:
        Names of the services that were ended.

    Raises:
        ConfigError: `purge`, and the directory is not one that `bring_up` made.
        UnreachableError: Somebody else is at work here.
    """
    directory = directory.resolve()
    if not is_ours(directory):
        if purge:
            raise ConfigError(f"{directory}: there is no services.json of `elder up`; nothing was removed")
        return []
    ended = []
    with sole_user(directory):
        for service in reversed(read_services(directory).values()):
            if end(service.process):
                ended.append(service.name)
                say(f"{service.name:<7} {service.url} ended (pid {service.process.pid})")
        if purge:
            remove_all(directory)
    return ended


@dataclass(frozen=True)
class _Plan:
    """How a server is started, and where it says that it is well."""

    name: str
    kind: str
    port: int
    command: tuple[str, ...]
    health: str
    variables: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def _both(starter: _Starter, s3_port: int | None, mlflow_port: int | None) -> Services:
    directory, before = starter.directory, dict(starter.services)
    starter.check_port(S3, s3_port)  # before it is written down as the port of this directory
    site = prepare(directory / "swift", port=s3_port)
    port = mlflow_port or (before[MLFLOW].port if MLFLOW in before else free_port())
    starter.check_port(S3, site.port)
    starter.check_port(MLFLOW, port)
    if MLFLOW in before and S3 in before and before[S3].url != site.endpoint:
        end(before[MLFLOW].process)  # it knows the S3 server by its old address
    s3 = starter.ensure(_s3_plan(site, starter.say))
    _make_bucket(site, s3)
    mlflow = starter.ensure(_mlflow_plan(directory, site, port))
    return Services(directory, site, s3, mlflow, tuple(starter.fresh))


class _Starter:
    """Starts servers of one directory, writes down each of them at once, and can take its own starts back."""

    def __init__(self, directory: Path, environment: Mapping[str, str], say: Say, services: dict[str, Service]) -> None:
        self.directory, self.services = directory, services
        self.fresh: list[str] = []
        self.say, self._environment = say, environment

    def ensure(self, plan: _Plan) -> Service:
        """The server of last time if it runs and answers, otherwise a new one."""
        old = self.services.get(plan.name)
        if old is not None and self._is_well(old, plan):
            self.say(f"{plan.name:<7} {old.url} runs already ({old.kind}, pid {old.process.pid})")
            return old
        if old is not None and end(old.process):
            self.say(f"{plan.name:<7} {old.url} did not answer and was ended")
        log = self.directory / "logs" / f"{plan.name}.log"
        process = start(plan.command, {**self._environment, **plan.variables}, log)
        service = self.services[plan.name] = Service(plan.name, plan.kind, plan.url, process)
        self.fresh.append(plan.name)
        record_services(self.directory, self.services.values())
        _await(service, plan, log)
        self.say(f"{plan.name:<7} {plan.url} started ({plan.kind}, pid {process.pid})")
        return service

    def check_port(self, name: str, port: int | None) -> None:
        """Refuse a port that a process which is not ours holds."""
        old = self.services.get(name)
        if port is None or (old is not None and old.port == port and family(old.process)):
            return
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what only just ended does not count
            try:
                probe.bind((HOST, port))
            except OSError as error:
                reason = f"port {port} of {HOST} cannot be used ({error.strerror})"
                raise UnreachableError(f"{reason}; give the {name} server another: --{name}-port PORT") from error

    def undo(self) -> None:
        """End what was started here."""
        for name in self.fresh:
            end(self.services[name].process)

    @staticmethod
    def _is_well(service: Service, plan: _Plan) -> bool:
        return service.url == plan.url and is_running(service.process) and _answers(plan.url + plan.health)


def _s3_plan(site: SwiftSite, say: Say) -> _Plan:
    problem = missing_support(site.directory)
    if problem is None:
        command = (sys.executable, "-m", "elder.infra.dev.swift_server", str(site.directory))
        return _Plan(S3, "swift", site.port, command, "/", {})
    if importlib.util.find_spec("moto") is None:
        raise ConfigError(f"no S3 server can be started: {problem}")
    say(f"note    {problem}; moto takes its place")
    return _Plan(
        S3, "moto", site.port, (sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(site.port)), "/", {}
    )


def _mlflow_plan(directory: Path, site: SwiftSite, port: int) -> _Plan:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]
    variables = {**LEAN, **access(site), "MLFLOW_S3_ENDPOINT_URL": site.endpoint}
    return _Plan(MLFLOW, "mlflow", port, tuple(command), "/health", variables)


def _make_bucket(site: SwiftSite, service: Service) -> None:
    from elder.infra.stores.s3 import make_bucket
    from elder.infra.stores.s3_settings import S3Settings

    settings = S3Settings(endpoint_url=service.url, region=REGION, addressing="path")
    make_bucket(BUCKET, settings, site.access_key, site.secret_key)


def _await(service: Service, plan: _Plan, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and is_running(service.process):
        if _answers(plan.url + plan.health):
            return
        time.sleep(0.1)
    last = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    raise UnreachableError(f"the {plan.name} server did not come up at {plan.url}; {log} ends: {last}")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code < 500  # Swift refuses who does not sign, and is well
    except OSError:
        return False
    return True


def _check_installed() -> None:
    # sqlalchemy comes with the whole of mlflow, which has the server.
    missing = [name for name in ("boto3", "sqlalchemy", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"not installed: {', '.join(missing)}. pip install 'elder[services]'")


def _check_ports_agree(before: Mapping[str, Service], wanted: Mapping[str, int | None]) -> None:
    for name, service in before.items():
        port = wanted.get(name)
        if port is not None and port != service.port and is_running(service.process):
            raise ConfigError(f"--{name}-port {port}: it runs at {service.url}; `elder down` first to move it")
