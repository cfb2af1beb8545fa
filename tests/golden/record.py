"""What is kept of a stream's outcome, and how two of them are compared.

float64 numbers are kept with twelve digits and compared with a tolerance of 1e-10: processors add up in different
orders, which float64 shows in the 15th digit, and a change of the arithmetic shows far above the tenth. The bits of
float32 depend on the processor, so its digests are kept together with the machine that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elder.state import state_digest
from tests.golden.streams import Outcome, one_thread

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-10  # relative to a loss, or to the length of a tensor
Record = dict[str, Any]


def rounded(outcome: Outcome) -> Record:
    """What is kept of an outcome in float64.

    Losses and answers as they are. Of a tensor with fractions its length and its product with fixed weights: a change
    of any entry moves the second. Of other tensors the sha256.
    """
    return {
        "losses": [[_short(loss) for loss in curve] for curve in outcome.losses],
        "answers": outcome.answers,
        "state": {name: _kept(name, tensor) for name, tensor in sorted(outcome.state.items())},
    }


def exact(outcome: Outcome) -> Record:
    """What is kept of an outcome in float32: digests of every bit of losses and state, and the answers."""
    curves = [[float(loss).hex() for loss in curve] for curve in outcome.losses]
    return {
        "losses": hashlib.sha256(json.dumps(curves).encode()).hexdigest(),
        "state": state_digest(outcome.state),
        "answers": outcome.answers,
    }


def differences(found: Record, wanted: Record) -> list[str]:
    """What differs between two records of `rounded`, each place with both values."""
    wrong = [f"answers: {found['answers']}, not {wanted['answers']}"] if found["answers"] != wanted["answers"] else []
    if list(map(len, found["losses"])) != list(map(len, wanted["losses"])):
        wrong.append(f"losses: {list(map(len, found['losses']))} steps, not {list(map(len, wanted['losses']))}")
    for batch, (ours, theirs) in enumerate(zip(found["losses"], wanted["losses"], strict=False)):
        for step, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            if abs(a - b) > TOLERANCE * abs(b):
                wrong.append(f"loss of batch {batch}, step {step}: {a}, not {b}")
    for name in sorted(found["state"].keys() | wanted["state"].keys()):
        a, b = found["state"].get(name), wanted["state"].get(name)
        if not _alike(a, b):
            wrong.append(f"{name}: {a}, not {b}")
    return wrong


def machine() -> dict[str, str]:
    """What decides the last bits of float32: the version of torch and how this processor rounds."""
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "rounding": _rounding(),
    }


def _rounding() -> str:
    """A digest of float32 results that take several roundings each: machines that round alike have the same."""
    with one_thread():
        a = torch.arange(96 * 64, dtype=torch.float32).remainder(97).view(96, 64) / 97 - 0.5
        square = a.mT @ a + torch.eye(64)
        results = {
            "product": a @ a.mT,
            "rows": torch.bmm(a.view(4, 24, 64), a.view(4, 24, 64).mT),
            "exp": a.softmax(-1),
            "norm": a.square().mean(-1).rsqrt(),
            "silu": torch.nn.functional.silu(a),
            "solve": torch.linalg.solve(square, a.mT),
            "directions": torch.linalg.eigvalsh(square),
            "normal": torch.randn(64, generator=torch.Generator().manual_seed(0)),
        }
    return state_digest(results)[:16]


def _kept(name: str, tensor: Tensor) -> list[float] | str:
    if not tensor.is_floating_point():
        return state_digest({name: tensor})[:16]
    flat = tensor.double().reshape(-1)
    weights = (torch.arange(flat.numel()) * 7919).remainder(1009).double() / 1009 - 0.5
    return [_short(float(flat.norm())), _short(float(flat @ weights))]


def _short(value: float) -> float:
    return float(f"{value:.12g}")


def _alike(found: Any, wanted: Any) -> bool:
    """Equal, or two pairs of numbers that are as near as the length of the tensor asks for."""
    if not isinstance(found, Sequence) or not isinstance(wanted, Sequence) or isinstance(found, str):
        return bool(found == wanted)
    return all(abs(a - b) <= TOLERANCE * abs(wanted[0]) for a, b in zip(found, wanted, strict=True))


def read() -> Record:
    """The records that are kept."""
    record: Record = json.loads(FILE.read_text(encoding="utf-8"))
    return record


def write(double: Mapping[str, Record], single: Mapping[str, Record]) -> None:
    """Keep these records, those in float32 as this machine's."""
    lines = [f'  "machine": {json.dumps(machine())}']
    for name, records in (("float64", double), ("float32", single)):
        entries = ",\n".join(f"    {json.dumps(case)}: {_text(record)}" for case, record in records.items())
        lines.append(f'  "{name}": {{\n{entries}\n  }}')
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _text(record: Record) -> str:
    """One line an entry, so that a change of numbers can be read in a diff."""
    parts = []
    for key, value in record.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"        {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            parts.append(f"      {json.dumps(key)}: {{\n{inner}\n      }}")
        else:
            parts.append(f"      {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n    }"
