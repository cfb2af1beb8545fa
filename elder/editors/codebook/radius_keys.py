"""GRACE's codebook: keys with a radius each, and the number of the value that stands for what lies within.

A new key is added, or the nearest one covers it, or both draw back to half of the distance between them (Hartvigsen and
others, NeurIPS 2023, section 3.2). Three things differ from the reference code: answers are compared token by token and
not by the mean of their ids; a look-up adds nothing; and a key that comes again with another answer takes the place of
the first, where the reference keeps both with a radius of nothing. Knows nothing of models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elder.editors.codebook.rows import Rows
from elder.state import pack_json, unpack_json

EDGE = 1e-5  # an earlier key keeps so much less than half of the distance to a new one
ROUNDING = 2e-3  # share of squared lengths that a matrix product may be wrong by; near keys are measured exactly
GONE = -1.0
NUMBERS = ("label", "value", "owner")
Label = tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """The result of a look-up of R keys; where `inside` is False, only `distance` has a meaning.

    Attributes:
        inside: (R,) bool, within the radius of the nearest stored key.
        value: (R,) long, its value.
        owner: (R,) long, the number of the edit that trained that value last.
        score: (R,) 1 at the stored key, 0 at the edge.
        distance: (R,) to the nearest stored key; infinite where there is none.
    """

    inside: Tensor
    value: Tensor
    owner: Tensor
    score: Tensor
    distance: Tensor


class RadiusKeys:
    """Stored keys (Q,).

    Args:
        width: Q.
        initial: Radius of a new key.
        same: Keys belong to one text if they differ by no more than this share of their length; passes of other shapes
            round otherwise.
        device: Where look-ups happen.

    Attributes:
        covered: How often a key lay near one of the same answer, which was stretched to it.
        conflicts: How often two keys of different answers drew back from each other.
        replaced: Keys that came again with another answer.
    """

    def __init__(self, width: int, initial: float, same: float, device: torch.device) -> None:
        self.initial, self.same, self.device = initial, same, device
        self.keys = Rows((width,), device)
        self.radius = torch.zeros(0, device=device)  # below zero: the key is gone
        self.label = self.value = self.owner = torch.zeros(0, dtype=torch.long, device=device)
        self.labels: list[Label] = []
        self.covered = self.conflicts = self.replaced = 0

    def __len__(self) -> int:
        """Number of keys."""
        return int((self.radius >= 0).sum())

    def snapshot(self) -> RadiusKeys:
        """As they are now; keys are shared, since they do not change."""
        found = copy.copy(self)
        found.keys, found.radius, found.labels = self.keys.snapshot(), self.radius.clone(), list(self.labels)
        for name in NUMBERS:
            setattr(found, name, getattr(self, name).clone())
        return found

    # ---- look-up ------------------------------------------------------------------------------------------------

    def find(self, keys: Tensor) -> Held:
        """Look keys up, (R, Q), of any number format."""
        keys = keys.to(self.device, self.keys.values.dtype)
        index, distance = self.nearest(keys)
        if not len(self.radius):
            none = torch.zeros(len(keys), dtype=torch.long, device=self.device)
            return Held(none.bool(), none, none - 1, keys.new_zeros(len(keys)), distance)
        radius = self.radius[index]
        reach = radius + self.same * keys.norm(dim=1)
        score = (1 - distance / radius.clamp(min=EDGE)).clamp(min=0)
        return Held(distance <= reach, self.value[index], self.owner[index], score, distance)

    def nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Index (R,) of the nearest stored key of each key (R, Q), the newest of equals, and the distance (R,)."""
        stored = self.keys.values
        if not len(self):
            return torch.zeros(len(keys), dtype=torch.long, device=self.device), keys.new_full((len(keys),), torch.inf)
        lengths = keys.square().sum(1)[:, None] + stored.square().sum(1)[None]
        square = (lengths - 2 * keys @ stored.T).masked_fill(self.radius[None] < 0, torch.inf)
        near = square <= (square + 2 * ROUNDING * lengths).amin(1, keepdim=True)
        rows, columns = near.nonzero(as_tuple=True)
        distance = (keys[rows] - stored[columns]).norm(dim=1)
        least = keys.new_full((len(keys),), torch.inf).scatter_reduce(0, rows, distance, "amin")
        best = distance <= least[rows]
        index = torch.zeros(len(keys), dtype=torch.long, device=self.device)
        return index.scatter_reduce(0, rows[best], columns[best], "amax"), least

    # ---- learning -----------------------------------------------------------------------------------------------

    def place(self, keys: Tensor, labels: Sequence[Label], owners: Sequence[int], first: int) -> Tensor:
        """Make room for the keys of a batch, one after another.

        Args:
            keys: (R, Q), in the order of the rows.
            labels: The token ids of each row's answer.
            owners: The number of each row's edit.
            first: The number that the first new value gets.

        Returns:
            (R,) long, the number of the value that each row trains. A key that covers a row gets a new number for its
            value too, since stored values do not change.
        """
        numbers = {label: number for number, label in enumerate(self.labels)}
        fresh: dict[int, int] = {}  # index of a stored key -> the number of its value in this batch
        chosen = []
        for key, label, owner in zip(keys.to(self.keys.values), labels, owners, strict=True):
            index = self._entry(key, numbers.setdefault(label, len(numbers)))
            chosen.append(index)
            fresh.setdefault(index, first + len(fresh))
            self.owner[index] = owner
        for index, value in fresh.items():
            self.value[index] = value
        self.labels = list(numbers)
        return torch.tensor([fresh[index] for index in chosen])

    def _entry(self, key: Tensor, label: int) -> int:
        """The index of the stored key that a key belongs to from now on."""
        index, distance = (found[0] for found in self.nearest(key[None]))
        gap, nearest = float(distance), int(index)
        same = self.same * float(key.norm())
        if gap <= same and int(self.label[nearest]) != label:
            self.replaced += 1
            self.radius[nearest] = GONE
            return self._add(key, label, self.initial) if not len(self) else self._entry(key, label)
        if gap > self.initial + (float(self.radius[nearest]) if gap < torch.inf else 0.0):
            return self._add(key, label, self.initial)
        if int(self.label[nearest]) == label:
            self.covered += 1
            self.radius[nearest] = max(float(self.radius[nearest]), gap)
            return nearest
        self.conflicts += 1
        self.radius[nearest] = max(0.0, gap / 2 - EDGE)
        return self._add(key, label, gap / 2)

    def _add(self, key: Tensor, label: int, radius: float) -> int:
        self.keys.add(key[None])
        self.radius = torch.cat([self.radius, self.radius.new_tensor([radius])])
        for name, number in (("label", label), ("value", 0), ("owner", 0)):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_tensor([number])]))
        return len(self.radius) - 1

    def since(self, keys: int) -> list[Tensor]:
        """All that has changed since there were so many rows in `keys`."""
        counts = torch.tensor([self.covered, self.conflicts, self.replaced], device=self.device)
        return [self.keys.values[keys:], self.radius, self.label, self.value, self.owner, counts]

    def settle(self, before: RadiusKeys, changes: Sequence[Tensor]) -> None:
        """Have the changes since `before` as another rank computed them, see `since`."""
        new, self.radius, self.label, self.value, self.owner, counts = changes
        self.keys = before.keys.snapshot()
        self.keys.add(new)
        self.covered, self.conflicts, self.replaced = (int(count) for count in counts)

    # ---- state --------------------------------------------------------------------------------------------------

    def used(self) -> Tensor:
        """The numbers of the values that some key has, rising."""
        return self.value[self.radius >= 0].unique()  # type: ignore[no-untyped-call,no-any-return]

    def state(self) -> dict[str, Tensor]:
        """What is left of it, on the CPU: keys that are gone are not, and values are numbered as in `used`."""
        alive, used = self.radius >= 0, self.used()
        found = {
            "keys": self.keys.values[alive],
            "radius": self.radius[alive],
            "label": self.label[alive],
            "value": torch.searchsorted(used, self.value[alive]),
            "owner": self.owner[alive],
            "counts": torch.tensor([self.covered, self.conflicts, self.replaced]),
        }
        state = {name: tensor.detach().cpu().clone() for name, tensor in found.items()}
        return state | {"labels": pack_json(self.labels)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the content by what `state` gave."""
        self.keys = self.keys.replaced(state["keys"])
        self.radius = state["radius"].to(self.radius, copy=True)
        for name in NUMBERS:
            setattr(self, name, state[name].to(self.device, copy=True))
        self.covered, self.conflicts, self.replaced = (int(count) for count in state["counts"])
        self.labels = [tuple(label) for label in unpack_json(state["labels"])]

    @staticmethod
    def problems(state: Mapping[str, Tensor], values: int, edits: int) -> list[str]:
        """Contradictions in a state of the right names and formats, for a number of values and edits."""
        keys, labels = len(state["keys"]), unpack_json(state["labels"])
        listed = isinstance(labels, list) and all(isinstance(label, list) for label in labels)
        wrong = [] if listed else ["'keys.labels' must be lists of token ids"]
        for name in ("radius", *NUMBERS):
            if len(state[name]) != keys:
                wrong.append(f"'keys.{name}' has {len(state[name])} entries, expected {keys}")
        limits = {"value": values, "owner": edits, "label": len(labels) if listed else 0}
        for name, limit in limits.items():
            if len(state[name]) and not 0 <= int(state[name].min()) <= int(state[name].max()) < limit:
                wrong.append(f"'keys.{name}' names what is not there")
        if bool((state["radius"] < 0).any()):
            wrong.append("'keys.radius' is negative")
        return wrong
