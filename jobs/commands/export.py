"""`elder export`: an adapter of a weight editor, merged into an ordinary model directory."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from elder.jobs.shared.extras import MODEL_LIBRARIES, require
from elder.jobs.shared.options import directory_argument, json_option, mlflow_option, write_json
from elder.paths import user_path


@click.command("export")
@click.argument("ref", metavar="REF")
@directory_argument
@click.option("--base", metavar="MODEL", help="Where the base model is; default: where the adapter says.")
@click.option("--edits", metavar="N", type=click.IntRange(min=0), help="As it was after N edits, where a batch ended.")
@click.option("--force", is_flag=True, help="Also when most of an update is lost in the base's number format.")
@mlflow_option
@json_option
def command(
    ref: str,
    directory: Path,
    base: str | None,
    edits: int | None,
    force: bool,
    mlflow: str | None,
    json_file: Path | None,
) -> None:
    """Write DIR: the base model with the edits of REF in its weights, which plain transformers loads.

    REF is an adapter directory, or what `elder pull` takes. Methods that change weights only (rome, memit, emmet,
    alphaedit, mend, malmen, ultraedit).
    """
    require(*MODEL_LIBRARIES)
    from elder.adapter import load_edited
    from elder.editors.weights.rollback import rolled_back
    from elder.export import check_target, export_merged
    from elder.jobs.shared.wiring import home, tracking_address

    check_target(directory)
    with tempfile.TemporaryDirectory() as folder:
        place = user_path(ref)
        if not (place / "manifest.json").is_file():
            from elder.infra.tracking.tracker import pull

            place = pull(ref, Path(folder) / "adapter", tracking_address(mlflow))
        editor = load_edited(place, base, cache_dir=home())
        if edits is not None:
            editor = rolled_back(editor, edits)
        merged = export_merged(editor, directory, force)
    for note in merged:
        click.echo(f"{note.name}: ||D|| {note.size:.4g}, lost in rounding {note.lost:.2g} of it")
    click.echo(f'{directory}: {editor.edits_applied} edits; AutoModelForCausalLM.from_pretrained("{directory}")')
    write_json(json_file, {"ref": ref, "directory": str(directory), "merged": [asdict(note) for note in merged]})
