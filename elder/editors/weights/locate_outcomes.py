"""What became of the edits of one batch of a locate editor: what was found, written and left, edit by edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor

from elder.base import EditOutcome
from elder.edit import Edit
from elder.errors import SolverError
from elder.targets.values import Values


@dataclass(frozen=True)
class Written:
    """How one batch was written into one block, for each of its n edits.

    Attributes:
        asked: (n,) length of the residual.
        missed: (n,) length of what the update leaves of it at the bare prompt, by the formula.
        size: ||D|| / ||W||, of the batch.
        leverage: (n,) k^T C^-1 k: how unlike ordinary keys a key is; None where C is not known or has no inverse.
    """

    asked: Tensor
    missed: Tensor
    size: float
    leverage: Tensor | None


def check_found(batch: Sequence[Edit], values: Values) -> None:
    """A value at which the model says nothing that is a number would disable it.

    Raises:
        SolverError: There is one; names its edit.
    """
    lost = [edit.id for edit, loss in zip(batch, values.loss, strict=True) if not isfinite(loss)]
    if lost or not bool(values.change.isfinite().all()):
        raise SolverError(
            f"no value was found for {'edit ' + ', '.join(lost[:5]) if lost else 'an edit'}: its loss is not finite; "
            "nothing of this batch was written. Lower editor.lr or editor.clamp, or load the model in float32"
        )


def outcomes_of(batch: Sequence[Edit], values: Values, written: Sequence[Written], left: Tensor) -> list[EditOutcome]:
    """The outcome of every edit, with the figures of its value and of the blocks that were written.

    Args:
        batch: n edits.
        values: What was found for them.
        written: One for each block.
        left: (n,) length of the residual that is left at the bare prompt.
    """
    outcomes = []
    for i, edit in enumerate(batch):
        details = {
            "steps": float(values.steps[i]),
            "value_loss": values.loss[i],
            "value_norm": float(values.change[i].norm()),
            "residual": float(written[-1].asked[i]),
            "residual_predicted": float(written[-1].missed[i]),
            "residual_left": float(left[i]),
            "change": max(one.size for one in written),
        }
        known = [float(one.leverage[i]) for one in written if one.leverage is not None]
        details |= {"leverage": max(known)} if known else {}
        outcomes.append(EditOutcome(edit.id, True, values.nll[i], details=details))
    return outcomes
