"""`elder demo`: the main job on embedded defaults, ending with an adapter pulled back from MLflow that answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.commands.edit import answers_of, edit, finish
from elder.jobs.shared.options import all_overrides, json_option, overrides_argument, run_id_option

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.run import RunConfig


@click.command("demo")
@overrides_argument
@run_id_option
@click.option("--real", is_flag=True, help="A real language model that speaks English, fetched once (elder models).")
@json_option
def command(overrides: tuple[str, ...], run_id: str | None, real: bool, json_file: Path | None) -> None:
    """Edit 200 facts into a small model, in stages, on two workers; then pull the adapter back and ask it.

    With --real: 40 facts that SmolLM2-135M-Instruct, a real language model, knows are made untrue, in a chat.
    """
    name = "demo_real" if real else "demo"
    config, console, result = edit(name, all_overrides(overrides, run_id), json_file)
    pulled = pull_back(config, result)
    finish(
        config,
        console,
        result,
        ["elder ls configs", f"elder cp {name} my.yaml", "elder plan paper/elder_llama2_7b_zsre"],
    )
    if pulled is not None:
        ask(config, console, pulled)


def pull_back(config: RunConfig, result: Mapping[str, Any]) -> Path | None:
    """Fetch the registered adapter from MLflow into a folder beside the store; None when none is registered."""
    registered = result.get("registered")
    if not registered:
        return None
    from elder.infra.tracking.tracker import pull

    store = config.tracking.store
    directory = (Path("elder-runs") if "://" in store else Path(store).parent) / "pulled" / config.run_id
    if not directory.exists():  # a demo that is called again with its run id has pulled it before
        ref = f"models:/{registered['name']}/{registered['version']}"
        pull(ref, directory, tracking_uri=str(config.tracking.mlflow), store=store)
    return directory


def ask(config: RunConfig, console: Console, directory: Path) -> None:
    """Load the pulled adapter onto a fresh base model and let it answer a few prompts."""
    import elder
    from elder.jobs.shared.wiring import home, make_store_factory
    from elder.jobs.terminal.answers import before_and_after
    from elder.jobs.terminal.summary import answers
    from elder.pipelines.run.inputs import load_stream

    model, data = config.model, config.data
    base = elder.load_base(
        model.source, dtype=model.dtype, device="cpu", cache_dir=home(), chat=data.chat, system=data.system
    )
    edited = elder.load_edited(directory, base=base)
    shown = {answer["prompt"] for answer in answers_of(config, make_store_factory(config)())}  # known facts, say
    edits = [edit for edit in load_stream(config) if edit.prompt in shown]
    text = f"\npulled back from MLflow into {directory}, loaded with elder.load_edited, and asked:"
    console.print(text, markup=False, soft_wrap=True)
    answers(console, before_and_after(edited, edits, config.evaluation.max_new_tokens))
