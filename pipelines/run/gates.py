"""Quality gates: whether a stage's metrics permit its commit. Pure arithmetic on names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def refusals(gates: Mapping[str, float], metrics: Mapping[str, float], protocols: Sequence[str]) -> list[str]:
    """One sentence for each gate that the metrics fail; empty when the stage may be committed.

    Args:
        gates: `config.gates`: least values by `quantity` (measured by the first protocol) or `quantity.protocol`;
            for `perplexity` the largest value.
        metrics: Measured values by `quantity.protocol`.
        protocols: `config.evaluation.protocols`.
    """
    found = []
    for gate, bound in gates.items():
        name = gate if gate == "perplexity" or "." in gate else f"{gate}.{protocols[0]}"
        value = metrics.get(name)
        if value is None:
            found.append(f"gates.{gate}: {name} was not measured (the data may have no prompts for it)")
        elif gate == "perplexity" and not value <= bound:
            found.append(f"gates.{gate}: {value:.4g} is above {bound:g}")
        elif gate != "perplexity" and not value >= bound:
            found.append(f"gates.{gate}: {name} = {value:.4f} is below {bound:g}")
    return found
