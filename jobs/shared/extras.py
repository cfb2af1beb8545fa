"""Libraries that `pip install elder` does not bring, and the extra that does. Imports none of them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from elder.errors import InputError, causes

if TYPE_CHECKING:
    from elder.pipelines.config.base import StagedConfig

# Extra of pyproject.toml -> the packages, by import name, that it adds to the client.
EXTRAS: dict[str, tuple[str, ...]] = {
    "edit": ("torch", "transformers", "safetensors", "tokenizers", "numpy", "matplotlib"),
    "ray": ("deepspeed", "optuna"),
    "tracking": ("sqlalchemy",),  # means the whole of mlflow, of which the client has the part without a database
    "data": ("datasets",),
    "peft": ("peft",),
    "gguf": ("gguf",),
    "harness": ("lm_eval",),
    "services": ("swift", "psutil"),
}
MODEL_LIBRARIES = ("torch", "transformers")


class NotInstalledError(InputError):
    """A verb needs a library that is not installed; the message names the extra that brings it."""


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def require(*packages: str) -> None:
    """Refuse to start a verb without the libraries that it cannot do without.

    Args:
        packages: Import names, each in one of `EXTRAS`.

    Raises:
        NotInstalledError: One of them is absent.
    """
    for package in packages:
        if not is_installed(package):
            raise NotInstalledError(sentence(package, click.get_current_context().info_name))


def require_for_run(config: StagedConfig) -> None:
    """`require` for a verb that edits, trains or measures: what its config takes beside torch is looked for too.

    Raises:
        NotInstalledError: A library is absent.
    """
    require(*MODEL_LIBRARIES)
    if config.cluster.workers:
        require("deepspeed")
    mlflow = config.tracking.mlflow
    if mlflow is not None and urlsplit(mlflow).scheme not in ("http", "https"):
        require("sqlalchemy")


def absent_library(error: BaseException) -> str | None:
    """The package of an extra that an error comes from, because it is not installed here; else None.

    It may be installed here and absent on another machine that the error came from; then nothing is to be done here.
    """
    for link in causes(error):
        if isinstance(link, ModuleNotFoundError) and link.name:
            package = link.name.partition(".")[0]
            if _extra_of(package) and not is_installed(package):
                return package
    return None


def sentence(package: str, verb: str | None) -> str:
    """`elder edit needs torch: pip install 'elder[edit]'`."""
    library = "mlflow with a database" if package == "sqlalchemy" else package
    return f"elder {verb} needs {library}: pip install 'elder[{_extra_of(package)}]'"


def _extra_of(package: str) -> str | None:
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)
