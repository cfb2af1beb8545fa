"""Moving an alias of a registered model, with who, when, why: a history that is only ever added to.

Every move is a separate tag on the registered model, so that two people who move at the same moment both leave
their record, and no tag outgrows what MLflow's database keeps (5,000 characters on PostgreSQL). MLflow itself has
no conditional write for aliases: of two moves at the same moment the later one holds. Whether a move is a good
idea is decided elsewhere. Does not import mlflow.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from elder.errors import ConfigError, InputError
from elder.infra.tracking.read import MODEL_ID, AdapterRef, aliases_of, last_metrics, registered_version, resolve_ref

if TYPE_CHECKING:
    from elder.infra.tracking.connection import Connection

HISTORY = "elder.promotion."
WHY_CHARS = 1000
FAILURES, FAILURE_CHARS = 10, 250


@dataclass(frozen=True)
class Candidate:
    """A logged adapter that somebody wants to promote, and the facts that decide about it.

    Attributes:
        adapter: The adapter.
        run_status: RUNNING, FINISHED, FAILED or KILLED.
        gates: Gates of the run's config; None when the run left no config.
        protocols: Its protocols.
        name: Registered name that it has, or is to have.
        version: Its version under that name; None when it is not registered yet.
    """

    adapter: AdapterRef
    run_status: str
    gates: Mapping[str, float] | None
    protocols: tuple[str, ...]
    name: str
    version: int | None


def find_candidate(mlflow: Connection, ref: str, name: str | None = None) -> Candidate:
    """The adapter that a reference means, with all that decides about its promotion.

    Args:
        mlflow: Where to look.
        ref: As `infra.tracking.read.resolve_ref`.
        name: Registered name; default: that of the reference, else the run's `tracking.register`.

    Raises:
        InputError: There is no such thing, or nobody says under which name it is to be registered.
    """
    adapter = resolve_ref(mlflow, ref)
    run = mlflow.call("get_run", mlflow.call("get_logged_model", adapter.model_id).source_run_id)
    params = run.data.params
    own = registered_version(mlflow, ref)
    version: int | None
    if own is not None and name in (None, own.name):
        known, version = own.name, int(own.version)
    else:
        asked = params.get("tracking.register")
        known = name or (None if asked in ("", "null") else asked)  # null in a config is logged as that
        version = None if known is None else version_of(mlflow, known, adapter.model_id)
    if known is None:
        raise InputError(f"{ref}: its run names no registered model (tracking.register). Say which one: --name NAME")
    logged = any(key.startswith(("editor.", "evaluation.")) for key in params)
    gates = {key.removeprefix("gates."): float(value) for key, value in params.items() if key.startswith("gates.")}
    protocols = tuple(json.loads(params.get("evaluation.protocols", "[]")))
    return Candidate(adapter, str(run.info.status), gates if logged else None, protocols, known, version)


def version_of(mlflow: Connection, name: str, model_id: str) -> int | None:
    """The first version of a registered model that is this logged model, or None."""
    if mlflow.find("get_registered_model", name) is None:
        return None
    versions = mlflow.all("search_model_versions", f"name = '{name}'")
    return min((int(v.version) for v in versions if v.tags.get(MODEL_ID) == model_id), default=None)


def alias_version(mlflow: Connection, name: str, alias: str) -> int | None:
    """The version that an alias points to, or None."""
    found = mlflow.find("get_model_version_by_alias", name, alias)
    return None if found is None else int(found.version)


def move_alias(
    mlflow: Connection,
    name: str,
    alias: str,
    version: int,
    action: str,
    who: str | None = None,
    why: str = "",
    failures: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Point an alias at a version and write down who did it.

    The record is written before the alias is moved and completed afterwards, so that a process that dies in
    between leaves a record that says so (`done` false).

    Args:
        mlflow: Where the model is registered.
        name: Its name.
        alias: The alias.
        version: Where it is to point.
        action: `promote`, `rollback`, or `run` for a run that ended.
        who: A person or a machine; default: this user on this machine.
        why: In the person's words.
        failures: The objections; with any, the move was forced.

    Returns:
        The record, or None when the alias pointed there already.

    Raises:
        ConfigError: `why` is too long.
    """
    if len(why) > WHY_CHARS:
        raise ConfigError(f"--why: {len(why)} characters; at most {WHY_CHARS} are kept")
    before = alias_version(mlflow, name, alias)
    if before == version:
        return None
    now = datetime.now(UTC)
    record: dict[str, Any] = {
        "action": action,
        "alias": alias,
        "from": before,
        "to": version,
        "who": who or whoami(),
        "when": now.isoformat(timespec="milliseconds"),
        "why": why,
        "forced": bool(failures),
        "failures": [text[:FAILURE_CHARS] for text in failures[:FAILURES]],
        "done": False,
    }
    key = f"{HISTORY}{now:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"
    mlflow.call("set_registered_model_tag", name, key, json.dumps(record, ensure_ascii=False))
    mlflow.call("set_registered_model_alias", name, alias, str(version))
    record["done"] = True
    mlflow.call("set_registered_model_tag", name, key, json.dumps(record, ensure_ascii=False))
    return record


def history(mlflow: Connection, name: str) -> list[dict[str, Any]]:
    """All moves of the aliases of a registered model, the oldest first.

    Raises:
        InputError: No such registered model.
    """
    model = mlflow.find("get_registered_model", name)
    if model is None:
        raise InputError(f"no registered model '{name}'; `elder runs` lists runs, `elder show RUN` their versions")
    return [json.loads(value) for key, value in sorted(model.tags.items()) if key.startswith(HISTORY)]


def previous_version(mlflow: Connection, name: str, alias: str) -> int:
    """The version that an alias pointed to before its last move.

    Raises:
        InputError: The history does not say.
    """
    now = alias_version(mlflow, name, alias)
    moves = [record for record in history(mlflow, name) if record["alias"] == alias and record["done"]]
    last = next((record for record in reversed(moves) if record["to"] == now), None)
    if now is None or last is None or last["from"] is None:
        state = "points nowhere" if now is None else f"is at version {now}, and no record says where it was before"
        raise InputError(f"models:/{name}@{alias} {state}. Name a version: --to 2")
    return int(last["from"])


def has_held(mlflow: Connection, name: str, alias: str, version: int) -> bool:
    """Whether an alias has pointed to a version before, according to its history."""
    moves = (record for record in history(mlflow, name) if record["alias"] == alias)
    return any(version in (record["from"], record["to"] if record["done"] else None) for record in moves)


def show_model(mlflow: Connection, name: str) -> dict[str, Any]:
    """A registered model: its aliases, its versions with the stages that they are, and the history of its aliases.

    Raises:
        InputError: No such registered model.
    """
    moves = history(mlflow, name)
    model = mlflow.call("get_registered_model", name)
    versions = sorted(mlflow.all("search_model_versions", f"name = '{name}'"), key=lambda v: int(v.version))
    rows = []
    for version in versions:
        logged = mlflow.find("get_logged_model", version.tags.get(MODEL_ID) or version.model_id or "")
        tags = {} if logged is None else logged.tags
        metrics = {} if logged is None else last_metrics(logged)
        rows.append(
            {
                "version": int(version.version),
                "aliases": aliases_of(model, int(version.version)),
                "run_id": tags.get("elder.run_id"),
                "stage": int(tags["elder.stage"]) if "elder.stage" in tags else None,
                "edits": int(tags["elder.edits"]) if "elder.edits" in tags else None,
                "metrics": dict(sorted(metrics.items())),
            }
        )
    aliases = {alias: int(number) for alias, number in sorted(model.aliases.items())}
    return {"name": name, "aliases": aliases, "versions": rows, "history": moves}


def whoami() -> str:
    """This user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
