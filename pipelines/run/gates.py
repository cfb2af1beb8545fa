"""Quality gates: whether a stage's metrics permit its commit. Pure arithmetic on names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from elder.ability.tasks import PERPLEXITIES
from elder.metrics.figures import AMOUNTS, CEILINGS, SCOPES, split_name

ABILITY = "ability."
SLACK = 1e-9  # 0.60 - 0.58 is a little more than 0.02


def refusals(gates: Mapping[str, float], metrics: Mapping[str, float], protocols: Sequence[str]) -> list[str]:
    """One sentence for each gate that the metrics fail; empty when the stage may be committed.

    Args:
        gates: `config.gates`: least values by `quantity` (measured by the first protocol) or `quantity.protocol`;
            for the figures of `CEILINGS`, such as `perplexity`, the largest value; for `ability.TASK` the largest loss
            against the unedited model: of a score the difference, of a perplexity its rise as a share of the unedited
            model's.
        metrics: Measured values by `quantity.protocol`.
        protocols: `config.evaluation.protocols`.
    """
    found = []
    for gate, bound in gates.items():
        if gate.startswith(ABILITY):
            found += _lost(gate, bound, metrics)
            continue
        quantity, protocol = split_name(gate)
        name = gate if protocol or quantity in (*AMOUNTS, *SCOPES) else f"{gate}.{protocols[0]}"
        value = metrics.get(name)
        if value is None:
            found.append(f"gates.{gate}: {name} was not measured (the data may have no prompts for it)")
        elif quantity in CEILINGS and not value <= bound:
            found.append(f"gates.{gate}: {_shown(name, value)} is above {bound:g}")
        elif quantity not in CEILINGS and not value >= bound:
            found.append(f"gates.{gate}: {name} = {value:.4f} is below {bound:g}")
    return found


def _shown(name: str, value: float) -> str:
    return f"{value:.4g}" if name == "perplexity" else f"{name} = {value:.4g}"


def _lost(gate: str, bound: float, metrics: Mapping[str, float]) -> list[str]:
    """The sentence of a gate `ability.TASK` that is failed."""
    task = gate.removeprefix(ABILITY)
    before, after = metrics.get(f"ability_base.{task}"), metrics.get(gate)
    if before is None or after is None:
        return [f"gates.{gate}: {gate} was not measured"]
    loss = after / before - 1 if task in PERPLEXITIES else before - after
    if loss <= bound + SLACK:
        return []
    digits, much = (".4g", f"{loss:.1%} above") if task in PERPLEXITIES else (".4f", f"{loss:.4f} below")
    allowed = f"{bound:.1%}" if task in PERPLEXITIES else f"{bound:g}"
    figures = f"{after:{digits}} is {much} the unedited model's {before:{digits}}"
    return [f"gates.{gate}: {figures}; at most {allowed} is allowed"]
