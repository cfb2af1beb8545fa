"""Makes a config fit to travel: files that it names go along, and its paths then say where they lie in the job.

Finds out before anything is uploaded what the cluster's nodes could not see. Knows nothing of Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elder.errors import ConfigError
from elder.infra.ray_jobs.packaging import FILES, RUN
from elder.infra.ray_jobs.server import is_loopback
from elder.paths import check_plain_below, user_path
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import SuiteConfig

INPUTS = f"{RUN}/inputs"


@dataclass
class PathRewriter:
    """One packing: where from, where to, and what there is to say about it.

    Attributes:
        target: The staged directory.
        loopback: Whether the cluster seems to be this machine.
        working_dir: The user's folder that travels too.
        inside: Its files that travel, as paths below it.
        notes: Sentences for the user.
        problems: What must be mended first.
    """

    target: Path
    loopback: bool
    working_dir: Path | None = None
    inside: Sequence[Path] = ()
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _copies: dict[str, Path] = field(default_factory=dict)

    def pack(self, config: Any) -> Any:
        """Copy the files that the config names; returns the config as the job will read it.

        Raises:
            ConfigError: Everything that the cluster could not see.
        """
        data = config.data.replace(path=self._file("data.path", config.data.path, "data"))
        own = self._own_parts(config)
        editor = config.editor
        model = config.model.replace(source=self._model(config.model.source))
        store = self._place("tracking.store", config.tracking.store)
        mlflow = config.tracking.mlflow and self._place("tracking.mlflow", config.tracking.mlflow)
        self._loopback_note("tracking.s3.endpoint_url", config.tracking.s3.endpoint_url)
        if config.cluster.address != "auto":
            self.notes.append(f"cluster.address: {config.cluster.address} is left out; the job runs where it is sent")
        if self.problems:
            raise ConfigError(self.problems)
        return config.replace(
            data=data,
            editor=editor.replace(options=self._options(editor.options, "editor", "trained")),
            model=model,
            cluster=config.cluster.replace(address="auto"),
            tracking=config.tracking.replace(store=store, mlflow=mlflow),
            **own,
        )

    def pack_several(self, whole: SuiteConfig) -> SuiteConfig:
        """As `pack`, of a comparison or a study: what each method names goes along too.

        Raises:
            ConfigError: Everything that the cluster could not see.
        """
        options = {
            name: self._options(given, f"{whole.KIND}.methods.{name}", f"trained-{name}")
            for name, given in whole.method_options().items()
        }
        return whole.with_options(self.pack(whole.run), options)

    def _options(self, given: Mapping[str, Any], key: str, folder: str) -> dict[str, Any]:
        """Options of a method, with the trained editor and the text of its statistics on board."""
        options = dict(given)
        trained, text = options.get("trained"), options.get("text")
        if trained and user_path(trained).is_dir():
            options["trained"] = self.directory(f"{key}.trained", trained, folder)
        if text is not None and not text.startswith(("world:", "hub:")):
            options["text"] = self._file(f"{key}.text", text, "statistics")
        return options

    def _own_parts(self, config: Any) -> dict[str, Any]:
        """The sections with files that only an edit run has, or only a training."""
        if not isinstance(config, RunConfig):
            path = self._file("validation.path", config.validation.path, "validation")
            return {"validation": config.validation.replace(path=path)}
        text = self._file("evaluation.perplexity_text", config.evaluation.perplexity_text, "text")
        ability = config.evaluation.ability
        if ability.tasks and ability.path is not None and user_path(ability.path).is_dir():
            ability = ability.replace(path=self.directory("evaluation.ability.path", ability.path, "ability"))
        return {"evaluation": config.evaluation.replace(perplexity_text=text, ability=ability)}

    def directory(self, key: str, given: str, name: str) -> str:
        """A directory of this machine that the job needs, small enough to travel; returns where it will lie.

        Raises:
            ConfigError: It cannot be read.
        """
        source = user_path(given)
        inside = self._in_folder(source)
        if inside is not None:
            return inside
        place = f"{INPUTS}/{name}"
        check_plain_below(source, ConfigError)
        try:
            shutil.copytree(source, self.target / place)
        except OSError as error:
            raise ConfigError(f"{key}: {given}: cannot be read: {error}") from error
        return place

    def _file(self, key: str, given: str | None, folder: str) -> str | None:
        if given is None or "://" in given:
            return given
        source = user_path(given)
        if source.is_file():
            inside = self._in_folder(source)
            if inside is not None:
                return inside
            return self._copied(source.resolve(), folder)
        if source.is_absolute() and not self.loopback:
            self.notes.append(f"{key}: {given} is not on this machine; the job will look for it on the head node")
        else:
            self.problems.append(f"{key}: {given}: no such file here; it travels with the job")
        return given

    def _copied(self, source: Path, folder: str) -> str:
        """Where a file will lie: each file once, files of one name apart."""
        place, number = f"{INPUTS}/{folder}/{source.name}", 1
        while self._copies.setdefault(place, source) != source:
            number += 1
            place = f"{INPUTS}/{folder}-{number}/{source.name}"
        if not (self.target / place).exists():
            (self.target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.target / place)
        return place

    def _model(self, given: str) -> str:
        source = user_path(given)
        here = source.is_dir() or given.lower().endswith(".gguf")
        if given.startswith("world:") or "://" in given or not (here or source.is_absolute()):
            return given  # an embedded world, a short name, a mirror or a hub id: every node fetches its own copy
        inside = self._in_folder(source) if source.exists() else None
        return inside or self._place("model.source", given)

    def _place(self, key: str, given: str) -> str:
        """A directory or address that the job uses where it is: it must mean the same on every node."""
        if given.startswith(("http://", "https://")):
            self._loopback_note(key, given)
            return given
        bare = given.removeprefix("file://").removeprefix("sqlite:///")
        if "://" in bare:
            return given
        path = user_path(bare)
        prefix = given[: len(given) - len(bare)]
        if path.is_absolute():
            if not self.loopback:
                self.notes.append(f"{key}: {given} must be one and the same disk on every node of the cluster")
            return f"{prefix}{path}"
        if self.loopback:
            self.notes.append(f"{key}: {given} is taken as {path.absolute()}, if the cluster runs on this machine")
            return f"{prefix}{path.absolute()}"
        better = {
            "tracking.store": "give s3://BUCKET/PREFIX",
            "tracking.mlflow": "give the address of a tracking server (http://HOST:PORT)",
            "model.source": "give s3://..., a hub id, or let it travel inside --working-dir",
        }[key]
        kind = "file" if key == "model.source" and path.is_file() else "directory"
        self.problems.append(
            f"{key}: '{given}' is a {kind} of this machine, which the cluster's nodes do not see; {better}, or the "
            "absolute path of a disk that every node has"
        )
        return given

    def _in_folder(self, source: Path) -> str | None:
        """Where a file or directory lies in the job, when it is inside the user's folder and travels with it."""
        if self.working_dir is None:
            return None
        try:
            below = source.resolve().relative_to(self.working_dir.resolve())
        except ValueError:
            return None
        travels = any(path == below or below in path.parents for path in self.inside)
        return f"{FILES}/{below.as_posix()}" if travels else None

    def _loopback_note(self, key: str, address: str | None) -> None:
        if address and is_loopback(address) and not self.loopback:
            self.notes.append(f"{key}: {address} means the node itself on every node of the cluster, not this machine")
