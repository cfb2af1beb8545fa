"""`elder validate`: config and data are checked, nothing is started."""

from __future__ import annotations

from pathlib import Path

import click

from elder.jobs.shared.options import all_overrides, check_json_target, config_arguments, json_option, write_json
from elder.jobs.shared.suite_commands import load_several, method_options


@click.command("validate")
@config_arguments
@method_options
@json_option
def command(
    config: str,
    overrides: tuple[str, ...],
    run_id: str | None,
    methods: str | None,
    strategy: str | None,
    json_file: Path | None,
) -> None:
    """Check CONFIG, its data and its base model's files; start nothing, write nothing.

    Of a comparison or a study every run is checked: its options, blocks, subjects and text.
    """
    from elder.jobs.shared.preflight import check_inputs, check_members
    from elder.jobs.shared.wiring import quiet_libraries
    from elder.pipelines.config.run import kind_of, load_config
    from elder.pipelines.run.inputs import left_out, skipped_of

    check_json_target(json_file)
    given = all_overrides(overrides, run_id)
    if kind_of(config, given) == "training":
        from elder.jobs.commands.train_editor import validate
        from elder.pipelines.config.training import load_train_config

        write_json(json_file, validate(load_train_config(config, given)))
        return
    several = load_several(config, given, methods, strategy)
    resolved = several.run if several else load_config(config, given)
    quiet_libraries(resolved)
    inputs = check_inputs(resolved)
    notes = dict.fromkeys([*inputs.notes, *(check_members(several) if several else ())])
    whole = several or resolved
    click.echo(whole.dump_yaml().rstrip())
    click.echo(f"# config ok, digest {whole.digest()[:16]}")
    click.echo(f"# data ok: {len(inputs.edits)} edits, digest {inputs.digest[:16]}")
    skipped = skipped_of(inputs.edits)
    if skipped:
        click.echo("\n".join(f"# {line}" for line in left_out(skipped).splitlines()))
    runs = {member.name: member.config.digest() for member in several.members} if several else {}
    for name, digest in runs.items():
        click.echo(f"# run {name}: digest {digest[:16]}")
    for note in notes:
        click.echo(f"# note: {note}")
    told = {
        "ok": True,
        "config_digest": whole.digest(),
        "edits": len(inputs.edits),
        "dataset_digest": inputs.digest,
        "notes": list(notes),
        **({"skipped": list(skipped)} if skipped else {}),
    }
    write_json(json_file, told | ({"runs": runs} if runs else {}))
