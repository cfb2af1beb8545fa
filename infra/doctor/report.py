"""From what the nodes of a cluster reported to lines of the doctor. Pure; nodes that report the same share a line."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elder.infra.doctor.check import Check
from elder.infra.doctor.nodes import version
from elder.infra.doctor.places import judge_clock

WANTED_GB = 2
Report = Mapping[str, Any]

REMEDIES = {
    "nodes": "Look at the node's logs (ray status, ray logs); a node that hangs has to be replaced.",
    "node versions": "Use one image for all nodes and the same versions here: pip install 'elder[all]' of the same "
    "release. Ray refuses to mix Python or Ray versions.",
    "node elder": "Install elder on the nodes (image, or pip install 'elder[all]'), or use `elder submit`, which sends "
    "it along.",
    "node GPUs": "Install torch for this accelerator in the nodes' image.",
    "node disk": "Free some space, or give the node a larger disk.",
    "node -> directory": "A directory works as a store only if all nodes share it (NFS); else use s3://BUCKET/PREFIX.",
    "node clocks": "Set the node's clock (chrony or ntpd); S3 refuses requests that are 15 minutes off.",
}
REACH = (
    "Open the way from the nodes to the server, and use an address that means the same on the nodes: not 127.0.0.1 "
    "and not a name that only this machine knows."
)


def node_lines(found: Mapping[str, Any], servers: Mapping[str, str], marker: str | None) -> list[Check]:
    """The lines of all nodes.

    Args:
        found: As `infra.doctor.nodes.survey` returns it.
        servers: What -> address that every node was asked about.
        marker: File of which every node was asked.
    """
    groups: dict[str, dict[Check, list[str]]] = {"nodes": {}}  # name of a line -> line -> the nodes that it is about
    for report in found["nodes"]:
        for line in _lines_of(report, servers, marker):
            groups.setdefault(line.name, {}).setdefault(line, []).append(_name(report))
    lines = []
    for check, names in (item for group in groups.values() for item in group.items()):
        everybody = len(names) == len(found["nodes"]) > 1
        who = f"all {len(names)} nodes" if everybody else _several(names)
        lines.append(Check(check.name, check.ok, f"{who}: {check.detail}", check.remedy, check.warn))
    return [*lines, *_clocks([report for report in found["nodes"] if not report["error"]], found["between"])]


def _lines_of(report: Report, servers: Mapping[str, str], marker: str | None) -> Iterator[Check]:
    """The lines of one node, without its name."""
    if report["error"]:
        yield _line("nodes", report["error"], ok=False)
        return
    yield _versions(report)
    there, here = report["versions"]["elder"], version("elder")
    if not report["importable"]:
        yield _line("node elder", "cannot be imported", warn=True)
    elif here and there and there != here:
        yield _line("node elder", f"elder {there}; here {here}", warn=True)
    else:
        yield _line("node elder", f"elder {there or 'from a folder'}")
    yield _gpus(report)
    free = report["free_gb"]
    size = f"less than {WANTED_GB}" if free < WANTED_GB else f"at least {10 * int(free // 10) or WANTED_GB}"
    yield _line("node disk", f"{size} GB free", ok=free >= WANTED_GB)
    programs = ", ".join(f"{name} {'found' if there else 'not found'}" for name, there in report["programs"].items())
    yield _line("node compiler", f"{programs} (no run needs them)")
    for name, url in servers.items():
        answer = report["reach"][url]
        text = f"{url} {'answers' if answer['ok'] else 'does not answer: ' + answer['error']}"
        yield _line(f"node -> {name}", text, ok=answer["ok"])
    if marker:
        sees = bool(report["markers"].get(marker))
        yield _line("node -> directory", f"{'sees' if sees else 'does not see'} the store's directory", ok=sees)


def _line(name: str, text: str, ok: bool = True, warn: bool = False) -> Check:
    return Check(name, ok, text, "" if ok and not warn else REMEDIES.get(name, REACH), warn)


def _versions(report: Report) -> Check:
    there = {"python": report["python"], **report["versions"]}
    here = {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")}
    text = ", ".join(f"{name} {there[name] or 'none'}" for name in here)
    # Ray joins nothing with another Python (but for the last part) or another Ray; torch may differ, at your risk.
    hard = [name for name in ("python", "ray") if here[name] and _short(there[name]) != _short(here[name])]
    soft = ["torch"] if here["torch"] and there["torch"] != here["torch"] else []
    if hard or soft:
        text += "; here " + ", ".join(f"{name} {here[name]}" for name in (*hard, *soft))
    return _line("node versions", text, ok=not hard, warn=bool(soft))


def _gpus(report: Report) -> Check:
    promised, gpus = int(report["gpus_for_ray"]), report["gpus"]
    if not promised and not gpus:
        return _line("node GPUs", "none")
    if not report["importable"]:
        return _line("node GPUs", f"{promised} for Ray; what they are is not known without elder there")
    kinds = Counter(f"{name}, {gib} GiB" for name, gib in gpus)
    text = " + ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "torch sees none"
    if len(gpus) < promised:
        return _line("node GPUs", f"{text}, though Ray has {promised}", ok=False)
    if not report["gpu_backend"]:
        text += "; this torch was built without the library by which they speak to each other"
        return _line("node GPUs", text, ok=False)
    return _line("node GPUs", f"{text}, collectives between them available")


def _clocks(reports: Sequence[Report], between: Sequence[float]) -> list[Check]:
    """The worst clock: against a server that a node asked, else against the machine that asked the nodes."""
    skews = []
    for report in reports:
        asked = [answer["ahead_s"] for answer in report["reach"].values() if answer["ahead_s"] is not None]
        early, late = between[0] - report["time"], report["time"] - between[1]
        bound = max(late, 0.0) - max(early, 0.0)  # what cannot be explained by the time that the question took
        skews.append((max([*asked, bound], key=abs), _name(report)))
    if not skews:
        return []
    ahead, node = max(skews, key=lambda item: abs(item[0]))
    return [judge_clock("node clocks", f"the worst of {len(skews)}, {node}", ahead, REMEDIES["node clocks"])]


def _several(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _name(report: Report) -> str:
    return f"{report['node']} ({report['id']})"


def _short(found: str | None) -> str:
    """Major and minor."""
    return ".".join((found or "").split(".")[:2])
