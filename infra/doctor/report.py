"""From what the nodes of a cluster told to lines of the doctor. Pure; nodes that tell the same share a line."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elder.infra.doctor.check import Check
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
    "node reach": "Open the way from the nodes to the server, and use an address that means the same on the nodes: not "
    "127.0.0.1 and not a name that only this machine knows.",
    "node store": "A directory works as a store only if all nodes share it (NFS); else use s3://BUCKET/PREFIX.",
    "node clock": "Set the node's clock (chrony or ntpd); S3 refuses requests that are 15 minutes off.",
}


def node_lines(found: Mapping[str, Any], servers: Mapping[str, str], marker: str | None) -> list[Check]:
    """The lines of all nodes.

    Args:
        found: As `infra.doctor.nodes.survey` tells it.
        servers: What -> address that every node was asked about.
        marker: File of which every node was asked.
    """
    answered = [report for report in found["nodes"] if not report["error"]]
    silent = [report for report in found["nodes"] if report["error"]]
    lines = _grouped(silent, lambda report: Check("nodes", False, report["error"], REMEDIES["nodes"]), len(answered))
    here = {"python": platform.python_version(), **{name: _version(name) for name in ("ray", "torch", "elder")}}
    judges: list[Callable[[Report], Check]] = [
        lambda report: _versions(report, here),
        _elder,
        _gpus,
        _disk,
        _programs,
        *(_reach(name, url) for name, url in servers.items()),
    ]
    if marker:
        judges.append(lambda report: _shared(report, marker))
    for judge in judges:
        lines += _grouped(answered, judge, len(silent))
    return [*lines, *_clocks(answered, found["between"], len(silent))]


def _versions(report: Report, here: Mapping[str, str | None]) -> Check:
    there = {"python": report["python"], **report["versions"]}
    text = ", ".join(f"{name} {there[name] or 'none'}" for name in ("python", "ray", "torch"))
    # Ray joins nothing with another Python (but for the last part) or another Ray; torch may differ, at your risk.
    hard = [name for name in ("python", "ray") if here[name] and _short(there[name]) != _short(here[name])]
    soft = [name for name in ("torch",) if here[name] and there[name] != here[name]]
    if hard or soft:
        text += "; here " + ", ".join(f"{name} {here[name]}" for name in (*hard, *soft))
    return Check("node versions", not hard, text, REMEDIES["node versions"] if hard or soft else "", bool(soft))


def _elder(report: Report) -> Check:
    there, here = report["versions"]["elder"], _version("elder")
    if not report["importable"]:
        return Check("node elder", True, "cannot be imported", REMEDIES["node elder"], warn=True)
    if here and there and there != here:
        return Check("node elder", True, f"elder {there}; here {here}", REMEDIES["node elder"], warn=True)
    return Check("node elder", True, f"elder {there or 'from a folder'}")


def _gpus(report: Report) -> Check:
    promised, gpus = int(report["gpus_for_ray"]), report["gpus"]
    if not promised and not gpus:
        return Check("node GPUs", True, "none")
    if not report["importable"]:
        return Check("node GPUs", True, f"{promised} for Ray; what they are is not known without elder there")
    kinds: dict[str, int] = {}
    for name, gib in gpus:
        kinds[f"{name}, {gib} GiB"] = kinds.get(f"{name}, {gib} GiB", 0) + 1
    text = " + ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "torch sees none"
    if len(gpus) < promised:
        return Check("node GPUs", False, f"{text}, though Ray has {promised}", REMEDIES["node GPUs"])
    if not report["gpu_backend"]:
        text += "; this torch was built without the library by which they speak to each other"
        return Check("node GPUs", False, text, REMEDIES["node GPUs"])
    return Check("node GPUs", True, f"{text}, collectives between them available")


def _disk(report: Report) -> Check:
    free = report["free_gb"]
    remedy = REMEDIES["node disk"] if free < WANTED_GB else ""
    size = f"less than {WANTED_GB}" if free < WANTED_GB else f"at least {10 * int(free // 10) or WANTED_GB}"
    return Check("node disk", free >= WANTED_GB, f"{size} GB free", remedy)


def _programs(report: Report) -> Check:
    told = ", ".join(f"{name} {'found' if there else 'not found'}" for name, there in report["programs"].items())
    return Check("node compiler", True, f"{told} (no run needs them)")


def _reach(name: str, url: str) -> Callable[[Report], Check]:
    def judge(report: Report) -> Check:
        answer = report["reach"][url]
        text = f"{url} {'answers' if answer['ok'] else 'does not answer: ' + answer['error']}"
        return Check(f"node -> {name}", answer["ok"], text, "" if answer["ok"] else REMEDIES["node reach"])

    return judge


def _shared(report: Report, marker: str) -> Check:
    if report["markers"].get(marker):
        return Check("node -> directory", True, "sees the store's directory")
    return Check("node -> directory", False, "does not see the store's directory", REMEDIES["node store"])


def _clocks(reports: Sequence[Report], between: Sequence[float], others: int) -> list[Check]:
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
    line = judge_clock("node clocks", f"the worst of {len(skews)}, {node}", ahead, REMEDIES["node clock"])
    return [line]


def _grouped(reports: Sequence[Report], judge: Callable[[Report], Check], others: int) -> list[Check]:
    """One line for all nodes that tell the same."""
    groups: dict[Check, list[str]] = {}
    for report in reports:
        groups.setdefault(judge(report), []).append(_name(report))
    lines = []
    for check, names in groups.items():
        whole = len(groups) == 1 and not others
        who = f"all {len(names)} nodes" if whole and len(names) > 1 else _several(names)
        lines.append(Check(check.name, check.ok, f"{who}: {check.detail}", check.remedy, check.warn))
    return lines


def _several(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _name(report: Report) -> str:
    return f"{report['node']} ({report['id']})"


def _short(version: str | None) -> str:
    """Major and minor."""
    return ".".join((version or "").split(".")[:2])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
