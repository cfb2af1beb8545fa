"""A study from its config to its report: every run is an ordinary edit run, so an interrupted study resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elder.pipelines.config.study import StudyConfig
from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome, SuiteRun, run_suite
from elder.pipelines.suite.study_report import figures_of, read_published, study_result, write_study_report


def run_study(config: StudyConfig, outside: SuiteIO) -> SuiteOutcome:
    """Bring every run of a study to its end, from wherever an earlier call came to.

    Raises:
        InputError: Config, data or model are wrong, or an id belongs to another run; nothing was started.
        UnreachableError: Cluster, store or tracker does not answer; what is committed is kept.
    """
    read_published(config.study.published)  # found out before the work
    text = config.dump_yaml()
    whole = SuiteRun(
        kind=config.KIND,
        root=config.root,
        run=config.run,
        members=config.members,
        config=text,
        plain=config.to_dict(),
        tags={"elder.study_id": config.study_id, "elder.config_digest": config.digest()},
        summary=lambda members, ended, store, stream, wall_s: study_result(
            config, members, ended, store, stream, wall_s
        ),
        write=lambda directory, result: write_study_report(directory, result, text),
        figures=figures,
        adapters=False,
    )
    return run_suite(whole, replace(outside, parallel=outside.parallel or config.study.parallel))


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The score of every run that has one, `RUN/counterfact.S`; else its reliability."""
    found = {}
    for name, run in result["runs"].items():
        for metric in ("counterfact.S", "reliability.forced", "reliability.generate"):
            if metric in figures_of(run):
                found[f"{name}/{metric}"] = float(figures_of(run)[metric])
    return found
