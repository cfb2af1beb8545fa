"""Manners of the tests themselves: what they may know of the inside of things, and where options of methods stand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from elder.registry import METHODS
from tests.architecture.private import private_names, test_files
from tests.architecture.sources import tree
from tests.side_by_side import starts_clusters

PRIVATE: dict[str, int] = {
    "tests/bench/test_pipeline.py": 2,
    "tests/cluster/job_head.py": 2,
    "tests/elder/edited/test_batching.py": 1,
    "tests/elder/editors/gradient/test_trained_editors.py": 2,
    "tests/elder/editors/mixture/test_elder_plus.py": 1,
    "tests/elder/editors/test_invariants.py": 1,
    "tests/elder/editors/test_persistence.py": 2,
    "tests/elder/editors/test_receipts.py": 1,
    "tests/elder/editors/test_two_processors.py": 1,
    "tests/elder/editors/weights/test_formulas.py": 2,
    "tests/elder/forward/test_shortcuts.py": 3,
    "tests/elder/hyper/test_trainer.py": 2,
    "tests/elder/metrics/test_completions.py": 2,
    "tests/elder/mixture/test_attach.py": 1,
    "tests/elder/models/test_load.py": 2,
    "tests/elder/solvers/test_sequences.py": 1,
    "tests/elder/targets/test_load_or_collect.py": 1,
    "tests/elder/targets/test_statistics.py": 2,
    "tests/infra/dev/test_services.py": 3,
    "tests/infra/test_aws_policy.py": 2,
    "tests/infra/test_cluster_yaml.py": 1,
    "tests/infra/tracking/test_connection.py": 1,
    "tests/pipelines/cluster/test_placement.py": 1,
    "tests/pipelines/cluster/test_private.py": 5,
    "tests/pipelines/cluster/test_ray_train.py": 1,
}
"""How often a file names something private of another object. The numbers may only become smaller."""


def test_private_names_of_others_become_fewer() -> None:
    used = {str(path): names for path in test_files() if (names := private_names(path))}
    more = {path: names for path, names in used.items() if len(names) > PRIVATE.get(path, 0)}
    assert more == {}, "test what others may use"
    fewer = {path: len(used.get(path, [])) for path, most in PRIVATE.items() if len(used.get(path, [])) < most}
    assert fewer == {}, "good: write the new numbers into PRIVATE"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("other._x", 1),
        ("self.other._x()", 1),
        ("self._x + cls._x + super()._x", 0),
        ("other.__class__", 0),
        ("pair._replace(a=1)", 0),
        ("from ray._private.utils import f", 1),
        ("from elder.state import _f", 1),
        ("import ray._private", 1),
        ("monkeypatch.setattr(home, '_f', None)", 1),
        ("patch('elder.state._f')", 1),
        ("print('_f')", 0),
    ],
)
def test_the_count_sees_every_kind(line: str, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.architecture.private as private

    monkeypatch.setattr(private, "tree", lambda path: ast.parse(line))
    assert len(private_names(Path("some.py"))) == found


def test_what_starts_ray_stays_in_one_process() -> None:
    found = {str(path) for path in test_files() if starts_clusters(str(path))}
    assert {"tests/cluster/test_nodes.py", "tests/cluster/test_outside.py", "tests/infra/test_installed.py"} <= found
    assert not {"tests/cluster/test_faults.py", "tests/cluster/test_weight_parity.py"} & found


def test_options_of_methods_stand_in_one_table() -> None:
    """`tests/methods.py`: a new method is one entry there."""
    tables = [f"{path}:{node.lineno}" for path in test_files() for node in _tables(path)]
    assert [place.partition(":")[0] for place in tables] == ["tests/methods.py"], tables


def _tables(path: Path) -> Iterator[ast.stmt]:
    """Constants of a file that give more than three methods options."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            if len(keys & set(METHODS)) > 3 and any(isinstance(v, ast.Dict | ast.Call) for v in node.value.values):
                yield node
