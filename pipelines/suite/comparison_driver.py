"""A comparison from its config to its report: the same edits, order, stages and seed under each method.

Every method is an ordinary edit run, so the same call again resumes where an earlier one was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elder.pipelines.config.comparison import CompareConfig
from elder.pipelines.suite.comparison_report import write_compare_report
from elder.pipelines.suite.comparison_result import compare_result
from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome, SuiteRun, run_suite


def run_compare(config: CompareConfig, outside: SuiteIO) -> SuiteOutcome:
    """Run every method to its end, from wherever an earlier call came to.

    Args:
        config: The resolved comparison; methods of an id that exist are continued, if config and edits are the same.
        outside: Store, trackers, display.

    Raises:
        InputError: Config, data or model are wrong, or an id belongs to another run; nothing was started.
        UnreachableError: Cluster, store or tracker does not answer; what is committed is kept.
    """
    text = config.dump_yaml()
    whole = SuiteRun(
        kind=config.KIND,
        root=config.root,
        run=config.run,
        members=config.members,
        config=text,
        plain=config.to_dict(),
        tags={
            "elder.compare_id": config.compare_id,
            "elder.methods": ", ".join(member.name for member in config.members),
            "elder.strategy": config.compare.strategy,
            "elder.config_digest": config.digest(),
        },
        summary=lambda members, ended, store, stream, wall_s: compare_result(
            config, members, ended, store, stream, {"wall_s": wall_s}
        ),
        write=lambda directory, result: write_compare_report(directory, result, text),
        figures=figures,
    )
    return run_suite(whole, replace(outside, parallel=outside.parallel or config.compare.parallel))


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The final figures of every method, `METHOD/metric`."""
    return {
        f"{name}/{metric}": float(value)
        for name, one in result["methods"].items()
        for metric, value in one["final"].items()
    }
