"""What all editors share that hold changes of weights beside them: the switch, the counts, and which states fit.

Knows nothing of how changes are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic

from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.base import Base
from elder.edited.model import make_edited
from elder.edited.told_apart import tell_apart
from elder.editors.asking import Asking
from elder.editors.weights.deltas import Deltas, Key
from elder.editors.weights.written_edits import WrittenEdits
from elder.errors import SolverError
from elder.state import unpack_json, weights_digest
from elder.state_checks import check_state, refuse

GROWING = ("cursor", "delta.", "memory.", "statistics.")  # entries of a state that grow with the stream


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

    def disabled(self) -> AbstractContextManager[None]:
        """See `Editor.disabled`."""
        return self.deltas.disabled()

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`: nothing is routed."""
        return nullcontext()

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`: written weights act on every input."""
        return None

    def base_digest(self) -> str:
        """See `Editor.base_digest`."""
        return weights_digest(self.base.model, self.base.runtime)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        raise NotImplementedError

    def save(self, directory: str | Path) -> None:
        """See `Editor.save`."""
        from elder.adapter_files import save_adapter

        save_adapter(directory, self)  # type: ignore[arg-type]

    def empty_copy(self) -> Any:
        """Another editor with these options on the same base, nothing written yet, supplied as this one is."""
        return type(self)(self.base, self.options)  # type: ignore[call-arg]

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
        """What in a state of sound parts does not go together."""
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

    def _note_sizes(self) -> None:
        self._seen["sizes"] = {str(key): list(delta.sizes) for key, delta in self.deltas.of.items()}

    # ---- sizes --------------------------------------------------------------------------------------------------

    def _weigh(self) -> None:
        """Have ||W|| of every map at hand. Collective; what follows can be one rank's business."""
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
    """With every entry growing downwards: left factors grow sideways."""
    return {name: t.mT if name.endswith(".left") and t.dim() == 2 else t for name, t in state.items()}


def _miscounted(cursor: Any, pattern: Mapping[str, Any]) -> list[str]:
    """What is wrong with the counts of a state, the editor's own being the pattern."""
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
