"""`elder evaluate`: measure an adapter again, on the data of a config."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from elder.jobs.shared.extras import MODEL_LIBRARIES, require
from elder.jobs.shared.options import json_option, overrides_argument, write_json


@click.command("evaluate")
@click.argument("adapter", metavar="ADAPTER")
@click.argument("config", metavar="CONFIG")
@overrides_argument
@click.option(
    "--tasks",
    metavar="LIST",
    help="Short for evaluation.ability.tasks=[LIST]: measure general ability too, such as gsm8k,rte,wikitext.",
)
@json_option
def command(adapter: str, config: str, overrides: tuple[str, ...], tasks: str | None, json_file: Path | None) -> None:
    """Measure ADAPTER (a directory, or a REF as in `elder pull`) on the edits of CONFIG, in this process.

    Prompts have the form that the adapter was made with, whatever data.chat and data.system say.
    """
    from elder.jobs.terminal.ability import ability_table
    from elder.jobs.terminal.display import make_console
    from elder.jobs.terminal.summary import answers, scores
    from elder.pipelines.config.run import load_config

    short = [] if tasks is None else [f"evaluation.ability.tasks=[{tasks}]"]
    resolved = load_config(config, [*overrides, *short])
    require(*MODEL_LIBRARIES)
    console = make_console()
    with adapter_directory(adapter, resolved) as directory:
        result = measure(directory, resolved, console)
    console.print(scores(result["metrics"], resolved.evaluation.protocols))
    if result["ability"]:
        console.print(ability_table(result["ability"]))
    answers(console, result["answers"])
    write_json(json_file, result)


@contextmanager
def adapter_directory(adapter: str, config: Any) -> Iterator[Path]:
    """The directory of an adapter; a ref is pulled into a temporary one.

    Raises:
        AdapterError: A directory without a manifest.
        ConfigError: Neither a directory nor a ref that MLflow knows.
    """
    if Path(adapter).is_dir():
        yield Path(adapter)
        return
    from elder.infra.tracking.tracker import pull
    from elder.jobs.shared.wiring import tracking_address

    with tempfile.TemporaryDirectory(prefix="elder-adapter-") as folder:
        place = Path(folder) / "adapter"
        # Only what is not a default replaces the settings that the adapter was stored with.
        chosen = config.tracking.s3.model_dump(exclude_defaults=True)
        address, store = tracking_address(config.tracking.mlflow), config.tracking.store
        yield pull(adapter, place, address, s3=chosen, store=store)


def measure(directory: Path, config: Any, console: Any) -> dict[str, Any]:
    """Load base and adapter, measure on the config's edits.

    Returns:
        `adapter` (what its manifest says), `metrics`, `counts`, `rows`, `answers`, and `ability`: for
        each figure `n`, `before`, `after` and `difference`, as `AbilityMeter.measure` gives them.
    """
    import elder
    from elder.adapter_files import verify
    from elder.chat import chat_of, chat_record, in_words
    from elder.jobs.shared.preflight import check_inputs
    from elder.jobs.shared.running import show_model
    from elder.jobs.shared.wiring import home, quiet_libraries
    from elder.jobs.terminal.answers import before_and_after
    from elder.metrics.evaluator import Evaluator
    from elder.metrics.known import known_facts
    from elder.pipelines.run.inputs import read_ability, read_text

    quiet_libraries(config)
    manifest = verify(directory)
    show_model(config, console)
    edits, tasks = check_inputs(config).edits, read_ability(config, home())
    model, wanted = config.model, config.evaluation
    base = elder.load_base(
        model.source, revision=model.revision, dtype=model.dtype, device=model.device, cache_dir=home()
    )
    edited = elder.load_edited(directory, base=base)
    form = chat_record(edited.base.chat)
    if form != chat_record(chat_of(base.tokenizer, config.data.chat, config.data.system)):
        text = f"note: measured with {in_words(form)}, as the adapter was made; data.chat and data.system say otherwise"
        console.print(text, markup=False, soft_wrap=True)
    if config.data.known:
        facts = known_facts(edited.base, edits, config.data.edits, wanted.max_new_tokens, wanted.batch_size)
        edits = [edits[index] for index in facts.kept]
    evaluator = Evaluator(
        edited, wanted.protocols, wanted.max_new_tokens, wanted.batch_size, read_text(config), wanted.completions
    )
    with console.status(f"measuring {len(edits)} edits") as status:
        parts = tuple(dict.fromkeys((*wanted.parts, "perplexity")))
        report = evaluator.measure(edits, parts, lambda done, of: status.update(f"{done}/{of} prompts"))
    ability = assess(edited, tasks, wanted.batch_size, console) if tasks else {}
    adapter = {name: manifest.get(name) for name in ("method", "edits", "state_digest", "base", "chat")}
    probes = before_and_after(edited, edits[: wanted.probes], wanted.max_new_tokens) if wanted.probes else []
    return {"adapter": adapter, **report.to_dict(), "answers": probes, "ability": ability}


def assess(edited: Any, tasks: Mapping[str, Any], batch_size: int, console: Any) -> dict[str, Any]:
    """Measure general ability beside the unedited model, whose scores are kept below ELDER_HOME."""
    from elder.ability.measure import AbilityMeter
    from elder.jobs.shared.wiring import home
    from elder.jobs.terminal.ability import counting

    meter = AbilityMeter(edited, tasks, batch_size, home())
    with counting(console, f"asking {', '.join(tasks)}") as progress:
        return meter.measure(progress)
