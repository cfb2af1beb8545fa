"""A trained editor on disk: the networks of MEND or MALMEN with what they were trained on, checked by sha256.

The same files as an adapter's (`adapter.safetensors`, `manifest.json`), so that stores and pulls need not know the
difference; the manifest's `kind` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from elder.adapter_files import MANIFEST, load_manifest, load_state, write_directory
from elder.base import Base
from elder.chat import chat_record, in_words, template_digest
from elder.errors import AdapterError, AdapterFileError
from elder.hyper.maps import Sizes
from elder.hyper.network import HyperNetwork
from elder.hyper.options import TrainedOptions, TrainingOptions
from elder.registry import make_training
from elder.state_checks import check_state

KIND = "trained-editor"


@dataclass(frozen=True)
class Trained:
    """A trained editor in memory.

    Attributes:
        method: `mend` or `malmen`.
        options: Those it was trained with.
        base: Source, revision, digest and dtype of the model it was trained on.
        digest: Of its state.
        steps: Blocks it was trained on.
        state: Networks and normalisers.
        chat: How its facts went through a chat template, as `training_chat` says; an empty record in those trained
            before that was written down.
    """

    method: str
    options: TrainingOptions
    base: Mapping[str, Any]
    digest: str
    steps: int
    state: Mapping[str, Tensor]
    chat: Mapping[str, Any] | None


def save_trained(
    directory: str | Path,
    method: str,
    options: TrainingOptions,
    base: Base,
    state: Mapping[str, Tensor],
    steps: int,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a trained editor; returns the manifest, which is written last."""
    record = {
        "kind": KIND,
        "method": method,
        "options": options.model_dump(),
        "chat": training_chat(base),
        "steps": steps,
        **(extra or {}),
    }
    return write_directory(directory, state, base, record)


def load_trained(directory: str | Path) -> Trained:
    """A trained editor from disk, verified.

    Raises:
        AdapterFileError: There is none, it is damaged, or it is an adapter.
    """
    if not (Path(directory) / MANIFEST).is_file():
        raise AdapterFileError(
            f"'{directory}' is no trained editor: it has no {MANIFEST}; train one: elder train-editor"
        )
    manifest = load_manifest(directory)
    if manifest.get("kind") != KIND:
        raise AdapterFileError(f"'{directory}' is an adapter of {manifest['method']}, not a trained editor")
    manifest, state = load_state(directory)
    options = make_training(manifest["method"], manifest["options"])
    return Trained(
        manifest["method"],
        options,
        manifest["base"],
        manifest["state_digest"],
        manifest.get("steps") or 0,
        state,
        manifest.get("chat", {}),
    )


def adopt(options: TrainedOptions, trained: Trained) -> TrainedOptions:
    """Editor options with layers, maps, tokens, loss and terminator as the networks were trained.

    Raises:
        AdapterError: Layers were asked for that it was not trained on.
    """
    its = trained.options
    if options.layers is not None and its.layers is not None and tuple(options.layers) != tuple(its.layers):
        raise AdapterError(
            f"editor.layers: the trained editor was trained for blocks {list(its.layers)}, not {list(options.layers)}; "
            "leave editor.layers out"
        )
    same = {name: getattr(its, name) for name in ("layers", "modules", "tokens", "loss", "terminator")}
    return options.replace(**same)


def network_of(trained: Trained, sizes: Sizes) -> HyperNetwork:
    """The networks of a trained editor for the maps of a model.

    Raises:
        AdapterError: It was trained for other maps.
    """
    o = trained.options
    network = HyperNetwork(sizes, trained.method, o.rank, o.blocks, o.lr)  # type: ignore[arg-type]
    check_state(trained.state, network.full_state(), (), ())
    network.take_state(trained.state)
    return network


def check_base(trained: Trained, base: Base) -> None:
    """A trained editor serves the model it was trained on, through the chat template of its training.

    Raises:
        AdapterError: This is another one, or its prompts are written in another way.
    """
    if trained.base["digest"] != base.digest:
        raise AdapterError(
            f"editor.trained: it was trained on {trained.base['source']} ({trained.base['digest'][:12]}), not on "
            f"{base.source} ({base.digest[:12]}); train one for this model: elder train-editor"
        )
    check_chat(
        trained.chat,
        base,
        "editor.trained: it was trained on {made}, this run has {now}; set data.chat and data.system as in its "
        "training, or train one for this run: elder train-editor",
    )


def training_chat(base: Base) -> dict[str, Any] | None:
    """How facts go through the base's chat template, the template included; None: they are plain texts."""
    record = chat_record(base.chat)
    return None if base.chat is None or record is None else {**record, "template": template_digest(base.chat)}


def check_chat(made: Mapping[str, Any] | None, base: Base, message: str) -> None:
    """Refuse a base whose prompts are written in another way than the record `made` says; an empty one says nothing.

    Args:
        made: As `training_chat`.
        base: Says how prompts are written now.
        message: Of the error, with places for `made` and `now`.

    Raises:
        AdapterError: The two differ.
    """
    now = training_chat(base)
    if made != {} and made != now:
        raise AdapterError(message.format(made=in_words(made), now=in_words(now)))
