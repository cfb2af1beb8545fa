"""`elder submit`: the same commands as a Ray job. The run's id is the job's id, so nothing runs twice."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from elder.errors import ConfigError
from elder.jobs.remote.lookup import (
    Attempts,
    attempts_of,
    exit_code_of,
    open_server,
    with_address,
    write_log,
)
from elder.jobs.shared.options import dashboard_option, json_option, write_json
from elder.jobs.shared.suite_commands import method_options

COMMANDS = ("edit", "train-editor", "tune", "compare", "study", "evaluate")
INTERRUPTED = 130


@click.command("submit")
@click.argument("verb", metavar="COMMAND")
@click.argument("arguments", nargs=-1, metavar="CONFIG [KEY.SUB=VALUE]...")
@dashboard_option
@click.option("--follow", "-f", is_flag=True, help="Show the job's log and end with its exit code.")
@click.option("--resume", metavar="RUN", help="Continue a run whose job has ended, from its last committed stage.")
@click.option("--run-id", metavar="ID", help="Short for run_id=ID: name the run.")
@click.option("--env", "environment", multiple=True, metavar="NAME[=VALUE]", help="Variable of the job; repeatable.")
@click.option("--working-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder that travels, as files/.")
@click.option("--exclude", "excluded", multiple=True, metavar="PATTERN", help="What does not travel; repeatable.")
@click.option("--max-upload-mb", type=click.FloatRange(min=0.1), default=100.0, show_default=True, help="Size limit.")
@click.option(
    "--driver-cpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Cores for the driver."
)
@method_options
@json_option
def command(
    verb: str,
    arguments: tuple[str, ...],
    methods: str | None,
    strategy: str | None,
    address: str | None,
    follow: bool,
    resume: str | None,
    run_id: str | None,
    environment: tuple[str, ...],
    working_dir: Path | None,
    excluded: tuple[str, ...],
    max_upload_mb: float,
    driver_cpus: float,
    json_file: Path | None,
) -> int:
    """Run COMMAND (edit, train-editor, tune, compare, study, evaluate) with CONFIG as a job of the Ray cluster.

    For evaluate the arguments are ADAPTER CONFIG; --methods and --strategy are those of compare. The job's id is the
    run's id: submitting a run twice is refused, --resume continues one that has ended. Config and data are checked
    here, before anything is uploaded.

    \b
    elder submit edit CONFIG --address http://HEAD:8265 --follow
    elder status RUN --address http://HEAD:8265
    """
    from elder.infra.ray_jobs.server import check_address, default_address
    from elder.jobs.remote.package import SubmitRequest, resolve_request, variables

    check_usage(verb, arguments, resume, run_id)
    place = check_address(address or default_address(os.environ))
    request = SubmitRequest(
        verb, arguments, place, resume or run_id, environment, working_dir, excluded, max_upload_mb, methods, strategy
    )  # fmt: skip
    if verb != "compare" and (methods is not None or strategy is not None):
        raise click.UsageError("--methods and --strategy are for compare")
    values = variables(environment, os.environ)
    package = resolve_request(request)
    sent = send(package, values, resume is not None, driver_cpus)
    write_json(json_file, sent)
    if not follow:
        return 0
    code, ended = follow_to_the_end(sent["submission_id"], place)
    write_json(json_file, {**sent, **ended})
    return code


def check_usage(verb: str, arguments: tuple[str, ...], resume: str | None, run_id: str | None) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: With what was expected.
    """
    if verb not in COMMANDS:
        raise click.UsageError(f"'{verb}' cannot be submitted (known: {', '.join(COMMANDS)})")
    wanted = ("ADAPTER", "CONFIG") if verb == "evaluate" else ("CONFIG",)
    if len(arguments) < len(wanted):
        raise click.UsageError(f"Missing argument '{wanted[len(arguments)]}': elder submit {verb} {' '.join(wanted)}")
    if resume is not None and run_id is not None and resume != run_id:
        raise click.UsageError("--resume and --run-id name different runs; --resume RUN is enough")
    if resume is not None and verb == "evaluate":
        raise click.UsageError("--resume: measuring has no stages to continue from; submit it again")


def send(package: Any, values: dict[str, str], resume: bool, driver_cpus: float) -> dict[str, Any]:
    """Pack, check against what the cluster and the store know, upload, start; returns the content of `--json`.

    Raises:
        ConfigError: The run has been submitted before, or runs, or is another one.
        UnreachableError: The cluster does not answer or refuses the token.
    """
    from elder.infra.ray_jobs.server import is_loopback
    from elder.infra.ray_jobs.submit import AlreadySubmitted, Submission, submit
    from elder.jobs.remote.package import entrypoint, metadata, pack, secret_names

    request = package.request
    with tempfile.TemporaryDirectory(prefix="elder-submit-") as folder:
        target = Path(folder)
        packed, notes = pack(package, target)
        server = open_server(request.address)
        facts = metadata(package, 1, packed)
        earlier = attempts_of(server.jobs(), package.run_id)
        check_again(package, packed, facts, earlier, resume)
        attempt = len(earlier.jobs) + 1 if earlier else 1
        job_id = earlier.next_id if earlier else package.run_id
        facts["elder.attempt"] = job_id.rpartition("-r")[2] if earlier else "1"
        secrets = secret_names(list(values))
        if secrets and not is_loopback(request.address):
            notes.append(
                f"{', '.join(secrets)}: Ray shows a job's variables to everyone who may list its jobs; "
                "prefer an instance role or a secret of the nodes (docs/submit.md)"
            )
        for note in notes:
            click.echo(f"note: {note}", err=True)
        own = {"ELDER_SUBMISSION_ID": job_id, "ELDER_RESUME": facts["elder.resume"]}
        job = Submission(job_id, entrypoint(target), target, {**values, **own}, facts, driver_cpus)
        try:
            submit(server, job)
        except AlreadySubmitted as error:  # somebody was quicker
            check_again(package, packed, facts, attempts_of(server.jobs(), package.run_id), resume)
            raise error
    click.echo(f"submitted {job_id}" + (f" (attempt {attempt} of run {package.run_id})" if earlier else ""))
    if values:
        click.echo(f"  variables     {', '.join(sorted(values))}")
    for name, text in (
        ("follow it", f"elder logs -f {job_id}"),
        ("its status", f"elder status {package.run_id}"),
        ("end it", f"elder stop {package.run_id}"),
    ):
        click.echo(f"  {name:<13} {with_address(text, server)}")
    return {
        "submission_id": job_id, "run_id": package.run_id, "attempt": attempt, "command": request.command,
        "address": request.address, "config_digest": facts["elder.config_digest"], "resume": facts["elder.resume"],
    }  # fmt: skip


def check_again(package: Any, packed: Any, facts: dict[str, str], earlier: Attempts | None, resume: bool) -> None:
    """Refuse a run that runs, that was submitted before without `--resume`, or that is stored with another config.

    Raises:
        ConfigError: With the state of the first, and how to follow or continue it.
    """
    from elder.jobs.remote.package import check_stored
    from elder.jobs.remote.run_status import run_status_of, sentence

    run_id, again = package.run_id, facts["elder.resume"]
    progress = run_status_of(facts, run_id)
    running = [job for job in earlier.jobs if not job.over] if earlier else []
    if earlier and (running or not resume):
        job = running[-1] if running else earlier.latest
        state = sentence(job, run_status_of(job.metadata, run_id))
        lines = [f"run '{run_id}' has been submitted to {package.request.address} before: {state} (job {job.id})"]
        if running:
            lines.append(f"  follow it with elder logs -f {job.id}, or end it with elder stop {run_id}")
        elif job.status != "SUCCEEDED":
            lines.append(f"  to continue it: {again}")
        elif package.request.command == "tune":
            lines.append(f"  to continue it with more trials (tune.trials): {again}")
        raise ConfigError([*lines, "  to start another run leave run_id out, or give another one"])
    if not earlier and not resume and progress.readable and (progress.stages or progress.trials):
        raise ConfigError([
            f"run '{run_id}' exists in {facts['elder.store']}: {progress.words(time.time())}",
            f"  to continue it here: {again}",
        ])  # fmt: skip
    if progress.readable:
        check_stored(package, packed)


def follow_to_the_end(job_id: str, address: str) -> tuple[int, dict[str, Any]]:
    """Show the log until the job has ended; returns the exit code and further content of `--json`."""
    from elder.infra.ray_jobs.submit import follow
    from elder.jobs.remote.run_status import run_status_of, sentence

    server = open_server(address)
    try:
        job = follow(server, job_id, write_log)
    except KeyboardInterrupt:
        click.echo(
            f"\n{job_id} continues without you: {with_address(f'elder logs -f {job_id}', server)} follows it again, "
            f"{with_address(f'elder stop {job_id}', server)} ends it",
            err=True,
        )
        return INTERRUPTED, {"status": "RUNNING", "exit_code": None}
    progress = run_status_of(job.metadata, job.metadata.get("elder.run_id", job_id))
    code = exit_code_of(job)
    click.echo(f"{job_id}: {sentence(job, progress)}")
    if code and job.exit_code is None and job.message:
        click.echo(f"  Ray says: {job.message.strip().splitlines()[-1]}", err=True)
    if code and job.metadata.get("elder.resume"):
        click.echo(f"  continue with: {job.metadata['elder.resume']}", err=True)
    return code, {"status": job.status, "exit_code": code, "standing": progress.to_dict()}
