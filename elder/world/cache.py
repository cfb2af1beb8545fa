"""Where trained world models live on disk: one directory for each recipe, named by its content.

A directory appears whole or not at all, and two processes that want the same world train it once.
Knows nothing of how training works or of edits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from elder.errors import ModelError
from elder.once import cache_root, made_once
from elder.world.facts import World, make_world
from elder.world.recipe import RECIPE_VERSION, Recipe, find_recipe

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "world.json")
"""A world directory is complete when it has all of these."""

TrainingProgress = Callable[[int, int, float], None]
"""Called after every training step with (steps done, steps of all, mean answer loss in nats)."""


def ensure_world(
    name: str = "small", cache_dir: str | Path | None = None, progress: TrainingProgress | None = None
) -> Path:
    """The directory of a world's trained Llama in the layout of the hub; trains it on first use.

    Args:
        name: `small` or `tiny`, with or without the prefix `world:`.
        cache_dir: Root of elder's cache; the model is in `worlds/` below it. Default: `~/.cache/elder`.
        progress: Called after every training step; not called when the model is cached already.

    Raises:
        ModelError: There is no such world, the cache cannot be written, or the trained model does not
            answer held-out wordings well enough (then nothing is cached).
    """
    recipe = find_recipe(name)
    world = make_world(recipe.size)
    home = _home(recipe, world, cache_dir)
    try:
        return made_once(home, _complete, lambda directory: _train_into(directory, recipe, world, progress))
    except OSError as error:
        raise ModelError(
            f"the model of world:{recipe.name} cannot be kept under {home.parent}: {error}; "
            "free some space there, make the directory writable, or choose another cache directory"
        ) from error


def cached_world(name: str = "small", cache_dir: str | Path | None = None) -> Path | None:
    """The directory of a world's model if it has been trained already; nothing is made.

    Args:
        name: As for `ensure_world`.
        cache_dir: As for `ensure_world`.

    Raises:
        ModelError: There is no such world.
    """
    recipe = find_recipe(name)
    home = _home(recipe, make_world(recipe.size), cache_dir)
    return home if _complete(home) else None


def world_digest(recipe: Recipe, world: World) -> str:
    """Twelve hexadecimal digits over what the weights follow from: recipe, facts, version of the code."""
    hasher = hashlib.sha256(json.dumps([RECIPE_VERSION, asdict(recipe)], sort_keys=True).encode())
    for trained in (True, False):
        for prompt, answer in world.prompts(trained):
            hasher.update(f"{prompt}\t{answer}\n".encode())
    return hasher.hexdigest()[:12]


def _home(recipe: Recipe, world: World, cache_dir: str | Path | None) -> Path:
    return cache_root(cache_dir) / "worlds" / f"{recipe.name}-{world_digest(recipe, world)}"


def _complete(home: Path) -> bool:
    return all((home / name).is_file() for name in FILES)


def _train_into(directory: Path, recipe: Recipe, world: World, progress: TrainingProgress | None) -> None:
    """Train, verify and save a world model.

    Raises:
        ModelError: Its accuracy on held-out wordings is below that of the recipe.
    """
    # Imported here: a cached world is found without torch.
    from safetensors import SafetensorError

    from elder.world.tokens import build_tokenizer
    from elder.world.training import accuracy, train

    started = time.perf_counter()
    tokenizer = build_tokenizer(world, recipe.shape.vocab, recipe.size.seed, recipe.shape.positions)
    model = train(recipe, world, tokenizer, progress)
    seconds = time.perf_counter() - started
    heldout = accuracy(model, tokenizer, world.prompts(trained=False))
    if heldout < recipe.training.accuracy:
        raise ModelError(
            f"the freshly trained model of world:{recipe.name} answers only {heldout:.3f} of the held-out "
            f"wordings, {recipe.training.accuracy:.3f} are needed; nothing was cached. The recipe is known to "
            "work, so suspect the machine or the installed versions of torch and transformers"
        )
    try:
        model.save_pretrained(directory, safe_serialization=True)
    except SafetensorError as error:  # what a full disk is to safetensors
        raise OSError(str(error)) from error
    tokenizer.save_pretrained(directory)
    measured = {
        "name": recipe.name,
        "recipe": asdict(recipe),
        "facts": len(world.facts),
        "parameters": model.num_parameters(),
        "accuracy": {"heldout": heldout, "trained": accuracy(model, tokenizer, world.prompts(trained=True))},
        "train_seconds": round(seconds, 1),
    }
    (directory / "world.json").write_text(json.dumps(measured, indent=1) + "\n")
