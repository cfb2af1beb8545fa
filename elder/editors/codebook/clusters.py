"""MELO's vector database: clusters of keys, each point with the block that serves it.

A cluster is a ball around the mean of its points. A new key founds a cluster, or extends the nearest one, or cuts it
back (Yu and others, AAAI 2024; `add`, `expand`, `conflict`). Four things differ from the reference code, which is wrong
there: answers are compared token by token and not by the sum of their ids; the nearest cluster is looked for anew after
every key; a ball that was cut back does not swell into its neighbour again; and a key that comes again with another
answer takes the place of the first.

A look-up takes the nearest point of all balls that hold the key. The reference looks into the ball with the nearest
centre only, and so finds nothing for a stored key that is nearer to the centre of a smaller ball. Knows nothing of
models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elder.editors.codebook.rows import Rows
from elder.state import pack_json, unpack_json

EDGE = 1e-5  # an earlier cluster keeps so much less than half of the distance in a conflict (as the reference)
ROUNDING = 2e-3  # share of squared lengths that a matrix product may be wrong by; near candidates are measured exactly
GONE = -1
Label = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """The result of a look-up of R keys; values of keys in no ball have no meaning.

    Attributes:
        inside: (R,) bool.
        block: (R,) long, the block of the nearest point.
        owner: (R,) long, the number of its edit.
        score: (R,) 1 at the centre of its cluster, 0 at the edge.
    """

    inside: Tensor
    block: Tensor
    owner: Tensor
    score: Tensor


class Clusters:
    """Balls of keys (Q,).

    Args:
        width: Q.
        initial: Radius of a new cluster (R0).
        same: Keys belong to one text if they differ by no more than this share of their length; passes of other shapes
            round otherwise.
        device: Where look-ups happen.

    Attributes:
        forgotten: Points that fell out of a cluster when it was cut back.
        conflicts: How often one was.
        replaced: Points whose key came again with another answer.
    """

    def __init__(self, width: int, initial: float, same: float, device: torch.device) -> None:
        self.initial, self.same, self.device = initial, same, device
        self.centers, self.points = Rows((width,), device), Rows((width,), device)
        self.radius = torch.zeros(0, device=device)  # of each row of `centers`; below zero: the cluster is gone
        none = torch.zeros(0, dtype=torch.long, device=device)
        self.label = none  # of each row of `centers`
        self.cluster, self.block, self.owner = none, none, none  # of each point; cluster `GONE`: forgotten
        self.labels: list[Label] = []
        self.forgotten = self.conflicts = self.replaced = 0

    def __len__(self) -> int:
        """Number of clusters."""
        return int((self.radius >= 0).sum())

    def snapshot(self) -> Clusters:
        """As they are now; large tensors are shared, since their rows do not change."""
        found = copy.copy(self)
        found.centers, found.points = self.centers.snapshot(), self.points.snapshot()
        found.radius, found.cluster, found.label = self.radius.clone(), self.cluster.clone(), self.label.clone()
        found.labels = list(self.labels)
        return found

    # ---- look-up ------------------------------------------------------------------------------------------------

    def find(self, keys: Tensor) -> Found:
        """Look keys up, (R, Q), of any number format."""
        keys = keys.to(self.device, self.centers.values.dtype)
        rows, clusters = self._holding(keys)
        count = len(keys)
        none = torch.zeros(count, dtype=torch.long, device=self.device)
        if not len(rows):
            return Found(none.bool(), none, none - 1, keys.new_zeros(count))
        holding = torch.zeros(count, len(self.radius) + 1, dtype=torch.bool, device=self.device)
        holding[rows, clusters] = True  # the last column is that of forgotten points
        some = rows.unique()  # type: ignore[no-untyped-call]
        near = holding.any(0)[self.cluster].nonzero()[:, 0].flip(0)  # of equal points the newest counts
        distance = exact(keys[some], self.points.values[near])
        best = near[distance.masked_fill(~holding[some][:, self.cluster[near]], torch.inf).argmin(1)]
        home = self.cluster[best]
        depth = (keys[some] - self.centers.values[home]).norm(dim=1) / self.radius[home]
        inside, block, owner, score = none.bool(), none.clone(), none - 1, keys.new_zeros(count)
        inside[some], block[some], owner[some] = True, self.block[best], self.owner[best]
        score[some] = (1 - depth).clamp(min=0)
        return Found(inside, block, owner, score)

    def _holding(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (row, cluster) of keys and the balls that hold them."""
        centers = self.centers.values
        square, slack = _squares(keys, centers)
        reach = self.radius[None] + self.same * keys.norm(dim=1)[:, None]
        rows, clusters = ((square <= reach**2 + slack) & (self.radius >= 0)).nonzero(as_tuple=True)
        pairs = zip(rows.split(PAIRS), clusters.split(PAIRS), strict=True)
        held = [(keys[r] - centers[c]).norm(dim=1) <= reach[r, c] for r, c in pairs]
        kept = torch.cat(held)
        return rows[kept], clusters[kept]

    # ---- learning -----------------------------------------------------------------------------------------------

    def add(self, keys: Tensor, labels: Sequence[Label], block: int, owners: Sequence[int]) -> Tensor:
        """Store the keys of a batch that owns a block.

        Args:
            keys: (R, Q), in the order of the rows.
            labels: The token ids of each row's answer.
            block: The block's number.
            owners: The number of each row's edit.

        Returns:
            (R,) distance of each key to the nearest centre that was there before it; infinite for the first.
        """
        numbers = {label: number for number, label in enumerate(self.labels)}
        distances = []
        for key, label, owner in zip(keys.to(self.centers.values), labels, owners, strict=True):
            home, distance = self._place(key, numbers.setdefault(label, len(numbers)))
            self.points.add(key[None])
            for name, value in (("cluster", home), ("block", block), ("owner", owner)):
                setattr(self, name, torch.cat([getattr(self, name), self.block.new_tensor([value])]))
            distances.append(distance)
        self.labels = list(numbers)
        return torch.tensor(distances)

    def since(self, centers: int) -> list[Tensor]:
        """What has changed since there were so many rows in `centers`, but for the points."""
        counts = torch.tensor([self.forgotten, self.conflicts, self.replaced], device=self.device)
        return [self.centers.values[centers:], self.radius, self.label, self.cluster, counts]

    def settle(self, before: Clusters, changes: Sequence[Tensor]) -> None:
        """Have the changes since `before` as another rank computed them (see `since`), with the same points."""
        new, self.radius, self.label, self.cluster, counts = changes
        self.centers = before.centers.snapshot()
        self.centers.add(new)
        self.forgotten, self.conflicts, self.replaced = (int(count) for count in counts)

    def _place(self, key: Tensor, label: int) -> tuple[int, float]:
        """Make room for a key; returns its cluster, and its distance to the centre that was nearest."""
        self._replace(key, label)
        nearest, distance = self._nearest(key)
        if nearest is None or distance > float(self.radius[nearest]) + self.initial:
            return self._new(key, label, self.initial), distance
        if int(self.label[nearest]) == label:
            return self._expand(nearest, key), distance
        self._cut(nearest, distance)
        return self._new(key, label, max(distance / 2 + EDGE, self._tolerance(key))), distance

    def _tolerance(self, key: Tensor) -> float:
        return self.same * float(key.norm())

    def _nearest(self, key: Tensor) -> tuple[int | None, float]:
        """The cluster with the nearest centre, and its distance."""
        alive = (self.radius >= 0).nonzero()[:, 0]
        if not len(alive):
            return None, torch.inf
        square, slack = _squares(key[None], self.centers.values)
        square, slack = square[0, alive], slack[0, alive]
        near = alive[square - slack <= (square + slack).min()]
        distance = exact(key[None], self.centers.values[near])[0]
        return int(near[distance.argmin()]), float(distance.min())

    def _new(self, center: Tensor, label: int, radius: float) -> int:
        """Number of a new cluster."""
        self.centers.add(center[None])
        self.radius = torch.cat([self.radius, self.radius.new_tensor([radius])])
        self.label = torch.cat([self.label, self.label.new_tensor([label])])
        return len(self.radius) - 1

    def _expand(self, cluster: int, key: Tensor) -> int:
        """Take a key of the same answer in, if clusters of other answers leave room; else it has a cluster alone."""
        members = (self.cluster == cluster).nonzero()[:, 0]
        points = torch.cat([self.points.values[members], key[None]])
        center, label = points.mean(0), int(self.label[cluster])
        farthest, room = float((points - center).norm(dim=1).max()), self._room(center, label)
        if farthest > room:
            return self._new(key, label, min(self.initial, max(self._room(key, label), self._tolerance(key))))
        grown = self._new(center, label, min(max(self.initial, farthest), room))
        self.cluster[members] = grown
        self.radius[cluster] = GONE
        return grown

    def _room(self, center: Tensor, label: int) -> float:
        """Distance from a point to the nearest ball of another answer."""
        others = ((self.radius >= 0) & (self.label != label)).nonzero()[:, 0]
        if not len(others):
            return torch.inf
        return float((exact(center[None], self.centers.values[others])[0] - self.radius[others]).min())

    def _cut(self, cluster: int, distance: float) -> None:
        """Cut a cluster back to half of the distance to a key of another answer; points outside are forgotten."""
        self.conflicts += 1
        self.radius[cluster] = max(0.0, distance / 2 - EDGE)
        members = (self.cluster == cluster).nonzero()[:, 0]
        far = (self.points.values[members] - self.centers.values[cluster]).norm(dim=1) > self.radius[cluster]
        self.forgotten += int(far.sum())
        self._forget(members[far])

    def _replace(self, key: Tensor, label: int) -> None:
        """Take away the points of the same text that have another answer."""
        if not len(self.cluster):
            return
        square, slack = _squares(key[None], self.points.values)
        near = (square[0] <= slack[0]) & (self.cluster != GONE)
        near = near.nonzero()[:, 0]
        distance = exact(key[None], self.points.values[near])[0]
        same = near[(distance <= self._tolerance(key)) & (self.label[self.cluster[near]] != label)]
        self.replaced += len(same)
        self._forget(same)

    def _forget(self, points: Tensor) -> None:
        """Take points away, and the clusters that are left without any."""
        homes = self.cluster[points]
        self.cluster[points] = GONE
        for home in homes.unique().tolist():  # type: ignore[no-untyped-call]
            if not bool((self.cluster == home).any()):
                self.radius[home] = GONE

    # ---- state --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What is left of it, on the CPU: clusters that are gone and points that are forgotten are not."""
        alive, kept = self.radius >= 0, self.cluster != GONE
        number = alive.long().cumsum(0) - 1
        found = {
            "centers": self.centers.values[alive],
            "radius": self.radius[alive],
            "label": self.label[alive],
            "points": self.points.values[kept],
            "cluster": number[self.cluster[kept]],
            "block": self.block[kept],
            "owner": self.owner[kept],
            "counts": torch.tensor([self.forgotten, self.conflicts, self.replaced]),
        }
        state = {name: tensor.detach().cpu().clone() for name, tensor in found.items()}
        return state | {"labels": pack_json(self.labels)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the content by what `state` gave."""
        self.centers = self.centers.replaced(state["centers"])
        self.points = self.points.replaced(state["points"])
        self.radius = state["radius"].to(self.radius)
        for name in ("label", "cluster", "block", "owner"):
            setattr(self, name, state[name].to(self.device, copy=True))
        self.forgotten, self.conflicts, self.replaced = (int(count) for count in state["counts"])
        self.labels = [tuple(label) for label in unpack_json(state["labels"])]

    @staticmethod
    def problems(state: Mapping[str, Tensor], blocks: int, edits: int) -> list[str]:
        """Contradictions in a state of the right names and formats, for a number of blocks and edits."""
        clusters, points = len(state["centers"]), len(state["points"])
        labels = unpack_json(state["labels"])
        listed = isinstance(labels, list) and all(isinstance(label, list) for label in labels)
        wrong = [] if listed else ["'clusters.labels' must be lists of token ids"]
        for name, count in (("radius", clusters), ("label", clusters), *((n, points) for n in POINT_WISE)):
            if len(state[name]) != count:
                wrong.append(f"'clusters.{name}' has {len(state[name])} entries, expected {count}")
        limits = {"cluster": clusters, "block": blocks, "owner": edits, "label": len(labels) if listed else 0}
        for name, limit in limits.items():
            if len(state[name]) and not 0 <= int(state[name].min()) <= int(state[name].max()) < limit:
                wrong.append(f"'clusters.{name}' names what is not there")
        if bool((state["radius"] < 0).any()):
            wrong.append("'clusters.radius' is negative")
        return wrong


POINT_WISE = ("cluster", "block", "owner")
PAIRS = 1024  # pairs of a key and a centre that are measured at once


def exact(keys: Tensor, rows: Tensor) -> Tensor:
    """(R, N) Euclidean distances, by differences."""
    return torch.cdist(keys, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _squares(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(R, N) squared distances by one matrix product, and how wrong each may be."""
    lengths = keys.square().sum(1)[:, None] + rows.square().sum(1)[None]
    return lengths - 2 * keys @ rows.T, ROUNDING * lengths
