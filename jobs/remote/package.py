"""From a command line to a job that can be sent: config resolved and checked here, files packed, metadata written.

Everything that is wrong with config, data or paths comes out here, before anything is uploaded. Imports no torch.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elder import __version__
from elder.errors import ConfigError
from elder.infra.ray_jobs.packaging import (
    RUN,
    check_size,
    code_root,
    sizes_below,
    stage_code,
    stage_folder,
    stage_start,
)
from elder.infra.ray_jobs.server import is_loopback
from elder.jobs.remote.paths import PathRewriter
from elder.jobs.remote.run_status import COMMAND_KEY, S3_KEY, SIZE_KEY, STAGES_KEY, STORE_KEY
from elder.jobs.shared.options import all_overrides, option_words
from elder.jobs.shared.suite_commands import load_several
from elder.jobs.shared.wiring import s3_settings
from elder.paths import user_path
from elder.pipelines.config.run import RunConfig, fresh_run_id, load_config
from elder.redact import SECRET_NAME

if TYPE_CHECKING:
    from elder.pipelines.config.training import TrainConfig

SUITES = {"compare": "comparison (name the methods with --methods)", "study": "study"}
ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
OWN_NAMES = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "ELDER_SUBMISSION_ID", "ELDER_RESUME")


@dataclass(frozen=True)
class SubmitRequest:
    """A command that the user wants to run elsewhere.

    Attributes:
        command: `edit`, `tune`, `compare`, `study` or `evaluate`.
        arguments: CONFIG and overrides; for evaluate ADAPTER before them.
        address: The cluster's dashboard.
        run_id: As given by `--run-id` or `--resume`.
        environment: `NAME` or `NAME=VALUE`, as given.
        working_dir: Folder that travels too.
        excluded: Patterns that do not.
        limit_mb: Most megabytes that may travel.
        methods: Of a comparison, as given by `--methods`.
        strategy: Likewise.
    """

    command: str
    arguments: tuple[str, ...]
    address: str
    run_id: str | None = None
    environment: tuple[str, ...] = field(default=(), repr=False)
    working_dir: Path | None = None
    excluded: tuple[str, ...] = ()
    limit_mb: float = 100.0
    methods: str | None = None
    strategy: str | None = None

    @property
    def adapter(self) -> str | None:
        """The adapter that is to be measured."""
        return self.arguments[0] if self.command == "evaluate" else None

    @property
    def config_argument(self) -> str:
        """The config as the user named it."""
        return self.arguments[1 if self.command == "evaluate" else 0]

    @property
    def overrides(self) -> tuple[str, ...]:
        """`key.sub=value` as the user gave them."""
        return self.arguments[2 if self.command == "evaluate" else 1 :]

    def again(self, run_id: str) -> str:
        """The command that continues a run; values of variables are left out."""
        kept = [text for text in self.arguments if not text.startswith("run_id=")]
        options = option_words(
            methods=self.methods, strategy=self.strategy, resume=run_id, address=self.address,
            env=[given.split("=", 1)[0] for given in self.environment], working_dir=self.working_dir,
            exclude=list(self.excluded),
        )  # fmt: skip
        return shlex.join(["elder", "submit", self.command, *kept, *options])


@dataclass(frozen=True)
class SubmissionPackage:
    """A request whose config and data have been checked.

    Attributes:
        request: The request.
        config: The run's config, resolved.
        whole: The config that is written down: the run's, or that of a search, comparison or study around it.
    """

    request: SubmitRequest
    config: Any
    whole: Any

    @property
    def run_id(self) -> str:
        """Names the run, and the job."""
        return str(self.config.run_id)


def resolve_request(request: SubmitRequest) -> SubmissionPackage:
    """Resolve the config and check the stream of edits as far as this machine has it.

    Raises:
        InputError: Everything that is wrong with config or data.
    """
    overrides = all_overrides(request.overrides, request.run_id)
    config: RunConfig
    whole: Any
    if request.command == "tune":
        from elder.pipelines.config.search import load_tune_config

        tune = load_tune_config(request.config_argument, overrides)
        config, whole = tune.run, tune
    elif request.command in SUITES:
        several = load_several(request.config_argument, overrides, request.methods, request.strategy)
        if several is None or request.command != several.KIND:
            raise ConfigError(f"{request.config_argument}: describes no {SUITES[request.command]}")
        config, whole = several.run, several
    elif request.command == "train-editor":
        from elder.pipelines.config.training import load_train_config

        training = load_train_config(request.config_argument, overrides)
        _check_facts(training)
        return SubmissionPackage(request, training, training)
    else:
        config = whole = load_config(request.config_argument, overrides)
        if request.command == "evaluate" and request.run_id is None:
            # A run id in the file names the edit run; measuring it again is another job.
            config = whole = config.replace(run_id=fresh_run_id(f"evaluate-{config.name}"))
    _check_data(config)
    return SubmissionPackage(request, config, whole)


def _check_facts(config: TrainConfig) -> None:
    """As `_check_data`, for a training."""
    from elder.pipelines.training.data import read_training

    if all(part.source is None or _is_here(part) for part in (config.data, config.validation)):
        read_training(config)


def _check_data(config: RunConfig) -> None:
    """Check the stream where that needs nothing but a file that is here; lengths in tokens are checked by the job."""
    from elder.pipelines.run.inputs import load_stream

    if _is_here(config.data):
        load_stream(config)


def _is_here(data: Any) -> bool:
    """Whether this machine has the facts of a section."""
    return data.source.startswith("world:") or bool(data.path and user_path(data.path).is_file())


def pack(package: SubmissionPackage, target: Path) -> tuple[Any, list[str]]:
    """Fill the directory that travels; returns the whole config as the job reads it, and notes for the user.

    Raises:
        ConfigError: The cluster could not see something that the config names, or it is too large.
    """
    request = package.request
    limit = int(request.limit_mb * 1e6)
    loopback = is_loopback(request.address)
    inside: Sequence[Path] = ()
    if request.working_dir is not None:
        inside = stage_folder(request.working_dir, target, request.excluded, limit)
    rewriter = PathRewriter(target, loopback, request.working_dir, inside)
    several = request.command in SUITES
    whole = rewriter.pack_several(package.whole) if several else _around(package, rewriter.pack(package.config))
    adapter = request.adapter
    if adapter is not None and Path(adapter).expanduser().is_dir():
        adapter = rewriter.directory("ADAPTER", adapter, "adapter")
    stage_code(target)
    stage_start(target, sys.executable if loopback else "")
    (target / RUN / "config.yaml").write_text(whole.dump_yaml(), encoding="utf-8")
    words = [] if adapter is None else [adapter]
    (target / RUN / "arguments").write_text(shlex.join([request.command, *words, f"{RUN}/config.yaml"]), "utf-8")
    check_size(sizes_below(target), limit, "the job's package")
    return whole, rewriter.notes


def _around(package: SubmissionPackage, packed: Any) -> Any:
    """The config that is written down, with the packed run in it."""
    return packed if package.whole is package.config else package.whole.replace(run=packed)


def run_of(whole: Any) -> Any:
    """The run of a config, or what the runs of it share."""
    return getattr(whole, "run", whole)


def entrypoint(target: Path) -> str:
    """The shell command that runs a packed directory."""
    return f"sh {RUN}/start.sh {(target / RUN / 'arguments').read_text(encoding='utf-8')}"


def metadata(package: SubmissionPackage, attempt: int, packed: Any) -> dict[str, str]:
    """Facts that everybody who can list jobs may know; no secret is among them."""
    config = run_of(packed)
    edits, size = edits_of(config), config.stream.stage_size
    tune = getattr(package.whole, "tune", None)
    stages: object = tune.trials if tune is not None else -(-edits // size) if edits else ""
    if package.request.command in SUITES:
        stages = len(package.whole.members)
    found = {
        "elder.run_id": package.run_id,
        "elder.attempt": str(attempt),
        COMMAND_KEY: package.request.command,
        "elder.name": config.name,
        "elder.config_digest": str(package.whole.digest()),
        "elder.code": code_version(),
        "elder.user": _user(),
        STORE_KEY: config.tracking.store,
        S3_KEY: json.dumps(s3_settings(config)),
        "elder.mlflow": config.tracking.mlflow or "",
        SIZE_KEY: str(size),
        STAGES_KEY: str(stages),
        "elder.resume": package.request.again(package.run_id),
    }
    return {key: value for key, value in found.items() if value}


def edits_of(config: Any) -> int | None:
    """How many edits a run has as far as its config says; in a training, the facts of all its steps."""
    training = getattr(config, "training", None)
    found: int | None = config.data.edits if training is None else training.steps * config.block_size
    return found


def check_stored(package: SubmissionPackage, packed: Any) -> None:
    """Refuse a run or search that its store has with another config; a store that cannot be read says nothing.

    Raises:
        ConfigError: Every difference is named.
    """
    from elder.jobs.shared.wiring import make_store_factory
    from elder.pipelines.run.commits import RunState

    store = make_store_factory(run_of(packed))()
    if package.request.command in ("edit", "train-editor"):
        RunState(store, package.run_id).check_same(packed)
    elif package.request.command in SUITES:
        from elder.pipelines.run.commits import check_same_runs

        check_same_runs([member.config for member in packed.read_back().members], store)
    elif package.request.command == "tune":
        from elder.pipelines.config.search import not_continued, parse_tune_config

        try:
            text = store.get(f"tunes/{package.run_id}/config.yaml").decode()
        except KeyError:
            return
        before = parse_tune_config(text, f"config of search {package.run_id}")
        now = package.whole.replace(run=run_of(packed))
        if changes := not_continued(before, now):
            head = f"search '{package.run_id}' exists with another config; undo these changes to continue it:"
            raise ConfigError([head, *(f"  {line}" for line in changes)])


def variables(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """`--env NAME` (taken from here) and `--env NAME=VALUE`; no message shows a value.

    Raises:
        ConfigError: A name is malformed, ours, or not set here.
    """
    problems, found = [], {}
    for text in given:
        name, equals, value = text.partition("=")
        if not ENV_NAME.match(name):
            problems.append("--env: expected NAME or NAME=VALUE, with a name of letters, digits and '_'")
        elif name in OWN_NAMES:
            problems.append(f"--env {name}: is set by the job itself")
        elif equals:
            found[name] = value
        elif name in environ:
            found[name] = environ[name]
        else:
            problems.append(f"--env {name}: is not set here; export it, or give --env {name}=VALUE")
    if problems:
        raise ConfigError(problems)
    return found


def secret_names(names: Sequence[str]) -> list[str]:
    """Those of the names that look like secrets."""
    return [name for name in names if SECRET_NAME.search(name)]


def code_version() -> str:
    """The commit of the checkout that is run, or the version of the installed package."""
    command = ["git", "-C", str(code_root()), "describe", "--always", "--dirty", "--abbrev=12"]
    if (code_root() / ".git").exists():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return __version__
        if done.returncode == 0:
            return f"{__version__}+{done.stdout.strip()}"
    return __version__


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return os.environ.get("USER", "")
