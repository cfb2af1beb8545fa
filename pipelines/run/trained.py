"""Which trained editor a run uses: `editor.trained` as a directory, or as the id of a training in the run's own store.

It is settled when the run first starts and written down, so that a training that goes on cannot change a run that is
continued. Knows nothing of what is in a trained editor but its manifest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from elder.errors import AdapterError, ConfigError
from elder.paths import user_path
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import CONFIG, Commit, RunState

KIND = "trained-editor"
UNTRAINED = "none"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TrainedPin:
    """A trained editor, by content.

    Attributes:
        digest: State digest of its manifest.
        run_id: The training, if it is one of the store.
        stage: Its checkpoint.
    """

    digest: str
    run_id: str | None = None
    stage: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the run's record."""
        return asdict(self)


def named_trained(config: StagedConfig) -> str | None:
    """What `editor.trained` says; None when the method uses no trained editor, or an untrained one on purpose."""
    text = config.editor.options.get("trained")
    return None if text in (None, UNTRAINED) else str(text)


def pin_trained(config: StagedConfig, store: Store, before: Mapping[str, Any] | None = None) -> TrainedPin | None:
    """Find the trained editor of a run.

    Args:
        config: The run's config.
        store: The run's store, where its id is looked for when it is no directory.
        before: What the run wrote down at its first start, if there was one.

    Raises:
        ConfigError: There is neither such a directory nor such a training, or it is of another method.
        AdapterError: The directory holds something else.
    """
    text = named_trained(config)
    if text is None:
        return None
    if _is_directory(text):
        manifest = read_manifest(user_path(text))
        _check_method(config, manifest, text)
        return TrainedPin(str(manifest["state_digest"]))
    state = RunState(store, text)
    commit = _checkpoint(state, before)
    if commit is None:
        raise ConfigError(
            f"editor.trained: '{text}' is no directory here, and {store.uri} has no committed checkpoint of a training "
            f"of that id; train one with `elder train-editor CONFIG run_id={text}`, or give a pulled directory"
        )
    manifest = json.loads(store.get(state.stage_key(commit.stage, f"{commit.attempt}/{MANIFEST}")))
    _check_method(config, manifest, text)
    return TrainedPin(str(manifest["state_digest"]), text, commit.stage)


def _checkpoint(state: RunState, before: Mapping[str, Any] | None) -> Commit | None:
    """The checkpoint of a training that a run uses: that of its first start, else the chosen one."""
    commits = state.commits()
    if before and before.get("stage") is not None and before.get("run_id") == state.run_id:
        return next((commit for commit in commits if commit.stage == before["stage"]), None)
    return chosen_checkpoint(commits, how_chosen(state)) if commits else None


def how_chosen(state: RunState) -> str:
    """`training.choose` of a training in a store."""
    from elder.pipelines.config.training import parse_train_config

    text = state.store.get(state.key(CONFIG)).decode()
    return parse_train_config(text, f"editor.trained: config of run {state.run_id}").training.choose


def chosen_checkpoint(commits: Sequence[Commit], how: str) -> Commit:
    """The checkpoint that is the trained editor: the last, or the best on validation facts (the later of equals)."""
    if how == "last":
        return commits[-1]

    def merit(commit: Commit) -> float:
        return fmean(commit.metrics.get(f"validation.{name}", 0.0) for name in ("ES", "GS", "LS"))

    return max(commits, key=lambda commit: (merit(commit), commit.stage))


@contextmanager
def trained_directory(
    config: StagedConfig, store_factory: Callable[[], Store], pinned: TrainedPin | None
) -> Iterator[Path | None]:
    """The trained editor of a run as a directory of this machine, for the length of a block; None: it uses none.

    Args:
        config: Names the trained editor, or none.
        store_factory: Makes the run's store.
        pinned: The one that the run was begun with, if it has begun.

    Raises:
        AdapterError: It is not the one that the run was begun with.
        ConfigError: As `pin_trained`.
    """
    text = named_trained(config)
    if text is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="elder-trained-") as folder:
        if _is_directory(text):
            directory = user_path(text)
        else:
            store = store_factory()
            pin = pinned or pin_trained(config, store)
            state = RunState(store, text)
            commits = [commit for commit in state.commits() if pin is not None and commit.stage == pin.stage]
            if not commits:
                raise AdapterError(f"editor.trained: the checkpoint of '{text}' that this run uses is gone")
            directory = state.fetch(commits[0], Path(folder) / "trained")
        found = str(read_manifest(directory)["state_digest"])
        if pinned is not None and found != pinned.digest:
            raise AdapterError(
                f"editor.trained: '{text}' has digest {found[:12]}, the run was begun with {pinned.digest[:12]}"
            )
        yield directory


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a trained editor.

    Raises:
        AdapterError: The directory holds none.
    """
    try:
        manifest = dict(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise AdapterError(f"editor.trained: '{directory}' holds no readable {MANIFEST}: {error}") from error
    if manifest.get("kind") != KIND or "state_digest" not in manifest:
        raise AdapterError(f"editor.trained: '{directory}' holds no trained editor; `elder train-editor` makes one")
    return manifest


def _check_method(config: StagedConfig, manifest: Mapping[str, Any], text: str) -> None:
    if manifest.get("method") != config.editor.method:
        raise ConfigError(
            f"editor.trained: '{text}' was trained for {manifest.get('method')}, not for {config.editor.method}"
        )


def _is_directory(text: str) -> bool:
    return user_path(text).is_dir()
