"""An adapter as an MLflow model: how it is saved, and the loader that `mlflow.pyfunc.load_model` runs.

A copy of this file travels inside every logged model, under the name `elder_pyfunc`, so that loading needs only an
installed elder[edit]. It imports elder and mlflow only inside its functions, and other modules of this folder, by their
names in the package, only for an adapter that was too large for MLflow and lies in the object store.
The base model is not part of the model: the manifest names it, and `model_config={"base": ...}` or the
environment variable ELDER_BASE gives another place for it, such as a local copy.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "numpy")
POINTER = "pointer.json"  # in the place of an adapter's files, see `infra.tracking.pointer`
MAX_NEW_TOKENS = 32
BATCH = 32


def save_model(path: Path, adapter: Path, model_id: str, run_id: str) -> dict[str, str]:
    """Write an MLflow model directory around an adapter directory.

    Args:
        path: The directory to make; the adapter goes to `data/adapter` in it.
        adapter: An adapter directory with its `manifest.json`.
        model_id: Id of the logged model that it will be uploaded to.
        run_id: Id of the MLflow run.

    Returns:
        Tags that tell what is inside.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    staged = path.parent / "adapter"
    staged.symlink_to(adapter.resolve(), target_is_directory=True)  # gives the folder its name without a copy
    signature = ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec("max_new_tokens", "long", MAX_NEW_TOKENS), ParamSpec("lines", "long", 1)]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an input example, for which the base would have to be loaded
        mlflow.pyfunc.save_model(
            str(path),
            loader_module="elder_pyfunc",
            data_path=str(staged),
            code_paths=[str(Path(__file__).resolve())],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=signature,
            pip_requirements=_requirements(),
            model_config={"base": None},
        )
    return _tags(adapter / "manifest.json")


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> ElderModel:
    """Called by MLflow with the adapter directory."""
    directory = Path(data_path)
    if (directory / POINTER).is_file():
        directory = _from_store(directory)
    return ElderModel(directory, (model_config or {}).get("base") or os.environ.get("ELDER_BASE"))


def _from_store(directory: Path) -> Path:
    """The adapter that a pointer means: fetched once, then kept beside the cached models.

    Raises:
        AdapterError: What is needed to reach the store is not installed.
    """
    from elder.adapter_files import verify
    from elder.errors import AdapterError

    pointer = json.loads((directory / POINTER).read_text(encoding="utf-8"))
    home = Path(os.environ.get("ELDER_HOME") or Path.home() / ".cache" / "elder").expanduser()
    place = home / "adapters" / hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()
    if place.is_dir():
        verify(place)
        return place
    try:
        from elder.infra.tracking.pointer import fetch_pointed, read_pointer

        known = read_pointer(directory)
        assert known is not None
        return fetch_pointed(known, place, "the adapter of this model")
    except ImportError as error:
        raise AdapterError(
            f"This adapter was too large for MLflow and lies in {pointer['store']}, but {error.name} is not installed "
            "here. Run: pip install elder, which brings it; or on a machine that has it `elder pull REF DIR`, and here "
            'elder.load_edited("DIR")'
        ) from error


class ElderModel:
    """An edited model that answers prompts.

    Args:
        directory: An adapter directory.
        base: Where the base model is; default: where the manifest says. A generated base is looked for in
            the cache of ELDER_HOME.
    """

    def __init__(self, directory: Path, base: str | None = None) -> None:
        import elder

        home = os.environ.get("ELDER_HOME")
        options = {"cache_dir": Path(home).expanduser()} if home else {}
        self._editor = elder.load_edited(directory, base=base, **options)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Greedy answers, the same that elder's metrics judge.

        Args:
            model_input: Prompts: a text, a list of texts, or a table with a column `prompt`.
            params: `max_new_tokens`; `lines`, the most lines of an answer (1).

        Returns:
            One answer for each prompt: the text up to the end of the sequence or of its last line.
        """
        from elder.metrics.generation import Decoder, generate
        from elder.tokens import encode_prompt

        base, model = self._editor.base, self._editor.model
        limit = int((params or {}).get("max_new_tokens", MAX_NEW_TOKENS))
        context = getattr(model.config, "max_position_embeddings", None)
        decoder = Decoder.to_stop(base.texts, limit, BATCH, context)
        decoder = decoder.for_answer("\n" * (int((params or {}).get("lines", 1)) - 1), decoder.lead)
        ids = [tuple(encode_prompt(base.texts, prompt)) for prompt in _prompts(model_input)]
        return [said.text for said in generate(model, ids, decoder, base.runtime)]


def _prompts(model_input: Any) -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns"):  # a pandas table; pandas itself is not needed here
        column = "prompt" if "prompt" in model_input.columns else model_input.columns[0]
        return [str(prompt) for prompt in model_input[column]]
    if isinstance(model_input, Mapping):
        return _prompts(model_input["prompt"])
    return [str(item["prompt"] if isinstance(item, Mapping) else item) for item in model_input]


def _requirements() -> list[str]:
    pins = []
    for name in LIBRARIES:
        try:
            # A local label such as +cpu names a build that package registries do not have.
            pins.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pins


def _tags(manifest: Path) -> dict[str, str]:
    text = manifest.read_bytes()
    content = json.loads(text)
    base = content.get("base", {})
    tags = {
        "elder.manifest_sha256": hashlib.sha256(text).hexdigest(),
        "elder.method": content.get("method"),
        "elder.state_digest": content.get("state_digest"),
        "elder.base": base.get("source"),
        "elder.base_digest": base.get("digest"),
    }
    return {key: str(value) for key, value in tags.items() if value is not None}
