"""`elder validate`: config and data are checked, nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.options import all_overrides, check_json_target, config_arguments, json_option, write_json

if TYPE_CHECKING:
    from pipelines.config import RunConfig


@click.command("validate")
@config_arguments
@json_option
def command(config: str, overrides: tuple[str, ...], run_id: str | None, json_file: Path | None) -> None:
    """Check CONFIG, its data and its base model's files; start nothing, write nothing."""
    from jobs.preflight import check_inputs
    from jobs.wiring import quiet_libraries
    from pipelines.train_config import describes_training, load_train_config

    check_json_target(json_file)
    if describes_training(config, overrides):
        from jobs.train_editor import validate

        write_json(json_file, validate(load_train_config(config, all_overrides(overrides, run_id))))
        return
    given = all_overrides(overrides, run_id)
    resolved, several = _common(config, given)
    quiet_libraries(resolved)
    inputs = check_inputs(resolved)
    click.echo(resolved.dump_yaml().rstrip())
    click.echo(f"# config ok, digest {resolved.digest()[:16]}")
    click.echo(f"# data ok: {len(inputs.edits)} edits, digest {inputs.digest[:16]}")
    for name, digest in several.items():
        click.echo(f"# run {name}: digest {digest[:16]}")
    for note in inputs.notes:
        click.echo(f"# note: {note}")
    write_json(
        json_file,
        {
            "ok": True,
            "config_digest": resolved.digest(),
            "edits": len(inputs.edits),
            "dataset_digest": inputs.digest,
            "notes": list(inputs.notes),
        },
    )


def _common(config: str, overrides: list[str]) -> tuple[RunConfig, dict[str, str]]:
    """The run that is checked; of a comparison or a study what its runs share, and the digest of each of them."""
    from pipelines.compare_config import load_compare_config
    from pipelines.config import load_config
    from pipelines.config_files import find_config, read_document
    from pipelines.study_config import load_study_config

    sections = read_document(find_config(config), overrides).values
    if "compare" in sections:
        compare = load_compare_config(config, overrides)
        return compare.run, {member.name: member.config.digest() for member in compare.members}
    if "study" in sections:
        study = load_study_config(config, overrides)
        return study.run, {member.name: member.config.digest() for member in study.members}
    return load_config(config, overrides), {}
