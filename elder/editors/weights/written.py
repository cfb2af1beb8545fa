"""The base of editors that keep changes of weights beside them: the edit loop, the counts, and checks of states.

Knows nothing of how changes are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Generic

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from elder.base import Base, EditOutcome, EditProgress, Receipt, check_edits
from elder.edit import Edit
from elder.edited.model import make_edited, tell_apart
from elder.editors.asking import Asking
from elder.editors.weights.deltas import Deltas, Key
from elder.errors import ModelError, SolverError
from elder.mixture.prompt_end import NAMES
from elder.state import unpack_json
from elder.state_checks import check_state, refuse

GROWING = ("cursor", "delta.", "memory.", "statistics.")  # entries of a state that grow with the stream


class WrittenEdits(Generic[Key]):
    """The changes as a part of the model that they change (see `elder.edited.model.Edits`).

    Every input meets the changed weights, so nothing is routed, and a request carries nothing.

    Args:
        deltas: The changes; attached to the model already.
        maps: The maps of the model that are changed, by the keys of `deltas`.
        summary: One line about method and base, for people.
    """

    def __init__(self, deltas: Deltas[Key], maps: Mapping[Key, nn.Module], summary: str) -> None:
        self.deltas: Deltas[Key] = deltas
        self.maps: dict[Key, nn.Module] = dict(maps)
        self.summary, self.count = summary, 0

    def running(self) -> bool:
        """See `Edits.running`: nothing is to be begun."""
        return True

    def forward(self, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """See `Edits.forward`."""
        return call(**{name: value for name, value in kwargs.items() if name not in NAMES})

    def request(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """See `Edits.request`."""
        return {name: value for name, value in kwargs.items() if name != "prompt_mask"}

    def batching(self, config: Any) -> None:
        """See `Edits.batching`: nothing is needed."""

    def disabled(self) -> AbstractContextManager[None]:
        """See `Edits.disabled`."""
        return self.deltas.disabled()

    def to(self, device: torch.device) -> None:
        """See `Edits.to`: changes are copied where they are needed."""

    def merged(self, model: nn.Module) -> Mapping[str, Tensor]:
        """See `Edits.merged`; sums are made in float32 and cast once to the format of the weights.

        Raises:
            ModelError: The model is sharded, or a changed matrix is shared with another part.
        """
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            raise ModelError("a sharded model cannot be saved like this: use elder.export_merged or `elder export`")
        names = {id(module): name for name, module in model.named_modules()}
        state: dict[str, Tensor] = dict(model.state_dict())
        places: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            places.setdefault(id(parameter), []).append(name)
        for key, delta in self.deltas.of.items():
            module: Any = self.maps[key]
            name = f"{names[id(module)]}.weight"
            if not delta.sizes:
                continue
            others = [other for other in places[id(module.weight)] if other != name]
            if others:
                raise ModelError(f"{name} and {others[0]} are one matrix: edits of one would change the other")
            dense = delta.dense_on(module.weight.device)
            change = dense.T if isinstance(module, Conv1D) else dense
            state[name] = (module.weight.detach().float() + change.float()).to(module.weight.dtype).contiguous()
        return state


class WrittenEditor(Asking, Generic[Key]):
    """A base model with changes at some of its maps.

    Attributes:
        maps: The maps that are changed, by the keys of `deltas`.
        deltas: Their changes.
    """

    method: str
    base: Base
    model: PreTrainedModel
    options: Any
    maps: Mapping[Key, nn.Module]
    deltas: Deltas[Key]
    edits: WrittenEdits[Key]
    _seen: dict[str, Any]  # the counts: `edits`, `batches`, `sizes` (of each map the rank of every batch), and others
    _norms: dict[Key, float]

    @property
    def edits_applied(self) -> int:
        """See `Editor.edits_applied`."""
        return int(self._seen["edits"])

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Apply edits in batches (see `Editor.edit`).

        Raises:
            ConfigError: There are no edits, no text for the statistics, or nothing trained to edit with.
            AdapterError: The edits before were written with statistics of another text.
            ModelError: The blocks of this model cannot be written together; nothing was written.
            DataError: An edit has an empty prompt or target, or no subject where the method needs one; nothing was
                written.
            SolverError: A batch has no sound solution, or would change a map too much; it was not written.
        """
        check_edits(edits)
        self._ready(edits)
        outcomes: list[EditOutcome] = []
        losses: list[tuple[float, ...]] = []
        changes: list[float] = []
        begin = time.perf_counter()
        for batch in self._batches(edits):
            found, curve, change = self._write(batch)
            self._seen["edits"] += len(batch)
            self._seen["batches"] += 1
            self._seen["sizes"] = {str(key): list(delta.sizes) for key, delta in self.deltas.of.items()}
            self._written()
            self.edits.count = self.edits_applied
            outcomes += found
            losses.append(curve)
            changes.append(change)
            if progress is not None:
                progress(len(outcomes), len(edits), curve[-1])
        notes = {**self._notes(outcomes), "largest_change": max(changes)}
        return Receipt(tuple(outcomes), tuple(losses), time.perf_counter() - begin, notes)

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`: nothing is routed."""
        return nullcontext()

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`: written weights act on every input."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        raise NotImplementedError

    def empty_copy(self) -> Any:
        """Another editor with these options on the same base, nothing written yet, supplied as this one is."""
        return type(self)(self.base, self.options)  # type: ignore[call-arg]

    # ---- for subclasses -----------------------------------------------------------------------------------------

    def _ready(self, edits: Sequence[Edit]) -> None:
        """Raise if these edits cannot be written."""

    def _batches(self, edits: Sequence[Edit]) -> list[list[Edit]]:
        size = self.options.batch_size
        return [list(edits[begin : begin + size]) for begin in range(0, len(edits), size)]

    def _write(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...], float]:
        """Write a batch as a whole or not at all; returns outcomes, losses and the largest ||D|| / ||W||."""
        raise NotImplementedError

    def _written(self) -> None:
        """Take note that the batch of the last `_write` counts."""

    def _notes(self, outcomes: Sequence[EditOutcome]) -> dict[str, float]:
        """Figures of one call for its receipt."""
        return {}

    # ---- states -------------------------------------------------------------------------------------------------

    def _checked(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The cursor of a state of which everything fits.

        Raises:
            AdapterError: Something does not; all that is wrong is named.
        """
        own = self.state_dict()
        check_state(_upright(state), _upright(own), GROWING, ("cursor",))
        cursor, pattern = unpack_json(state["cursor"]), unpack_json(own["cursor"])
        wrong = _miscounted(cursor, pattern) or self._contradictions(state, cursor)
        refuse(wrong)
        found: dict[str, Any] = cursor
        return found

    def _contradictions(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> list[str]:
        """Contradictions in a state of sound parts."""
        wrong = []
        for key, sizes in cursor["sizes"].items():
            names = {f"delta.{key}.left": 1, f"delta.{key}.right": 0, f"memory.{key}": 0}
            for name, dimension in names.items():
                if name in state and state[name].shape[dimension] != sum(sizes):
                    wrong.append(f"'{name}' does not add up to the batches of the cursor")
        return wrong

    def _publish(self, maps: Mapping[Key, nn.Module]) -> None:
        """Make a second clone of the base the model that callers get; training runs on the first, whose maps change.

        Args:
            maps: Those of the second clone.
        """
        self.deltas.attach(maps)
        tell_apart(maps.values())
        self.edits = WrittenEdits(self.deltas, maps, f"method {self.method}, on {self.base.source}")
        make_edited(self.model, self.edits)
        self.base.runtime.prepare(self.model)

    # ---- sizes --------------------------------------------------------------------------------------------------

    def _weigh(self) -> None:
        """Compute ||W|| of every map. Collective, so that one rank can use it alone."""
        for key, module in self.maps.items():
            if key not in self._norms:
                weight: Any = module.weight
                with self.base.runtime.gathered([weight]):
                    self._norms[key] = float(weight.detach().float().norm())

    def _relative_size(self, key: Key, left: Tensor, right: Tensor) -> float:
        """||left right|| / ||W||, after `_weigh`."""
        overlap = (left.double().T @ left.double()) * (right.double() @ right.double().T)
        return float(overlap.sum().clamp(min=0).sqrt()) / self._norms[key]

    def _check_size(self, what: str, size: float, advice: str) -> None:
        """Refuse an update by its ||D|| / ||W||.

        Raises:
            SolverError: It is not finite, or above `options.max_change`.
        """
        limit = self.options.max_change
        if not size < float("inf"):
            raise SolverError(f"{what}: the update is not finite; nothing of this batch was written")
        if limit is not None and size > limit:
            raise SolverError(
                f"{what}: the update is {size:.3g} times the weights, above editor.max_change = {limit}; "
                f"nothing of this batch was written. {advice}"
            )


def _upright(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with its left factors transposed, so that every entry grows along the first dimension."""
    return {name: t.mT if name.endswith(".left") and t.dim() == 2 else t for name, t in state.items()}


def _miscounted(cursor: Any, pattern: Mapping[str, Any]) -> list[str]:
    """Faults in the counts of a state, which must be of the pattern of the editor's own."""
    if not isinstance(cursor, dict) or set(cursor) != set(pattern):
        return [f"'cursor' must hold {', '.join(sorted(pattern))}"]
    wrong = [
        f"'cursor': {name} is {cursor[name]!r}, no count"
        for name in ("edits", "batches")
        if not _counts([cursor[name]])
    ]
    sizes = cursor["sizes"]
    if not isinstance(sizes, dict) or set(sizes) != set(pattern["sizes"]):
        return [*wrong, f"'cursor': sizes must be those of {', '.join(pattern['sizes'])}"]
    for key, own in sizes.items():
        if not isinstance(own, list) or not _counts(own) or len(own) != cursor["batches"]:
            wrong.append(f"'cursor': the sizes of {key} must be {cursor['batches']} counts, one of each batch")
    return wrong


def _counts(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)


def rising(values: Any) -> bool:
    """Whether these are counts, each above the one before."""
    return isinstance(values, list) and _counts(values) and all(a < b for a, b in pairwise([0, *values]))
