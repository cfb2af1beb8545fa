"""Sums over many vectors that can be taken in pieces: second moments of keys, mean and variance of factors.

Pieces may be taken by other processes, in any order and of any size, and merged. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.runtime import Runtime

MOMENT_STATE = ("sum", "count")
RUNNING_STATE = ("mean", "squares", "count")


class SecondMoment:
    """The sum of k k^T and how many keys it holds; products in float32, sums in float64.

    Args:
        width: m.
        device: Where products are made.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, keys: Tensor) -> None:
        """Take keys (n, m), one a row."""
        rows = keys.detach().to(torch.float32)
        self.total += (rows.mT @ rows).to(self.total)
        self.count += len(rows)

    def merge(self, other: SecondMoment) -> None:
        """Add the keys of another one."""
        self.total += other.total.to(self.total.device)
        self.count += other.count

    def reduce(self, runtime: Runtime) -> None:
        """Add up over all ranks, in place, in float64. Collective."""
        self.total = runtime.sum(self.total)
        self.count = sum(runtime.gather_objects(self.count))

    def mean(self) -> Tensor:
        """C = E[k k^T] (m, m), symmetric to the bit.

        Raises:
            SolverError: No key was taken.
        """
        if not self.count:
            raise SolverError("a second moment of no keys: the text of the statistics is empty")
        c = self.total / self.count
        return (c + c.mT) / 2

    def state_dict(self) -> dict[str, Tensor]:
        """Sum and count, on the CPU."""
        return {"sum": self.total.cpu().clone(), "count": torch.tensor(self.count)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> SecondMoment:
        """The moment of a `state_dict`."""
        moment = cls(state["sum"].shape[0])
        moment.total, moment.count = state["sum"].to(torch.float64).clone(), int(state["count"])
        return moment


@dataclass
class RunningMoments:
    """Mean and variance of each coordinate over everything seen, merged as Chan, Golub and LeVeque (1979) do.

    Equal to the two-pass value for any partition, a single vector included.

    Attributes:
        mean: (s,) float64.
        squares: (s,) float64, the sum of squared deviations from the mean.
        count: Number of vectors.
    """

    mean: Tensor
    squares: Tensor
    count: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> RunningMoments:
        """Nothing seen yet."""
        zeros = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def add(self, rows: Tensor) -> None:
        """Take vectors (n, s)."""
        if not len(rows):
            return
        wide = rows.detach().to(self.mean)
        mean = wide.mean(dim=0)
        self.merge(RunningMoments(mean, (wide - mean).square().sum(dim=0), len(rows)))

    def merge(self, other: RunningMoments) -> None:
        """Add the vectors of another one."""
        total = self.count + other.count
        if not other.count:
            return
        shift = other.mean.to(self.mean) - self.mean
        self.squares = self.squares + other.squares.to(self.mean) + shift.square() * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def variance(self) -> Tensor:
        """(s,), the mean squared deviation (over n, not n - 1).

        Raises:
            SolverError: Nothing was seen.
        """
        if not self.count:
            raise SolverError("the variance of no vectors: there are no statistics yet")
        return self.squares / self.count

    def normalise(self, rows: Tensor) -> Tensor:
        """(x - mean) / (std + 1e-7), (n, s), in the dtype of the rows."""
        return ((rows.to(self.mean) - self.mean) / (self.variance().sqrt() + 1e-7)).to(rows.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Mean, squares and count, on the CPU."""
        count = torch.tensor(self.count)
        return {"mean": self.mean.cpu().clone(), "squares": self.squares.cpu().clone(), "count": count}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> RunningMoments:
        """The moments of a `state_dict`."""
        return cls(state["mean"].clone(), state["squares"].clone(), int(state["count"]))
