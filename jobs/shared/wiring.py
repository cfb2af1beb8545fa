"""From a config to working parts: store, tracker, cache folder. The only place that reads the environment.

Everything heavy is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elder.jobs.shared.extras import is_installed
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import TrackingConfig

if TYPE_CHECKING:
    from elder.pipelines.protocols import Store, Tracker


def home() -> Path:
    """The root of everything that is cached: ELDER_HOME, by default ~/.cache/elder."""
    given = os.environ.get("ELDER_HOME")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "elder"


def quiet_libraries(config: StagedConfig) -> None:
    """Stop transformers and DeepSpeed from writing bars and warnings between our lines."""
    if config.cluster.gpus_per_worker == 0:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it had to find out
    if not is_installed("transformers"):  # a client that only looks at configs
        return
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def tracking_address(given: str | None) -> str:
    """The MLflow address for verbs without a config: the option, MLFLOW_TRACKING_URI, or the configs' default."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or str(TrackingConfig().mlflow)


def open_tracker(config: StagedConfig) -> Tracker:
    """The tracker of a config; one that keeps nothing when `tracking.mlflow` is null.

    Raises:
        ConfigError: The address is not understood.
        UnreachableError: The server does not answer.
    """
    tracking = config.tracking
    if tracking.mlflow is None:
        from elder.infra.tracking.null import NullTracker

        return NullTracker()
    from elder.infra.tracking.tracker import MlflowTracker

    return MlflowTracker(tracking.mlflow, tracking.experiment, tracking.mlflow_limit_mb, s3_settings(config))


def make_store_factory(config: StagedConfig) -> Callable[[], Store]:
    """A picklable callable that opens the config's store, here or in a worker."""
    from elder.infra.stores.open import store_factory

    return store_factory(config.tracking.store, s3_settings(config))


def s3_settings(config: StagedConfig) -> dict[str, Any]:
    """The `tracking.s3` section without what was left out."""
    return config.tracking.s3.model_dump(exclude_none=True)


def check_addresses(config: StagedConfig) -> None:
    """Parse the addresses of store and tracker; nothing is touched.

    Raises:
        ConfigError: One of them is not understood.
    """
    from elder.infra.stores.open import open_store
    from elder.infra.tracking.uri import locate

    open_store(config.tracking.store, s3_settings(config))
    if config.tracking.mlflow is not None:
        locate(config.tracking.mlflow)
