"""Quality gates: whether a stage's metrics permit its commit. Pure arithmetic on names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from elder.metrics.figures import AMOUNTS, CEILINGS, SCOPES, split_name


def refusals(gates: Mapping[str, float], metrics: Mapping[str, float], protocols: Sequence[str]) -> list[str]:
    """One sentence for each gate that the metrics fail; empty when the stage may be committed.

    Args:
        gates: `config.gates`: least values by `quantity` (measured by the first protocol) or `quantity.protocol`;
            for the figures of `CEILINGS`, such as `perplexity`, the largest value.
        metrics: Measured values by `quantity.protocol`.
        protocols: `config.evaluation.protocols`.
    """
    found = []
    for gate, bound in gates.items():
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
