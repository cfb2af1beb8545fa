"""The factors (u, g) of every token: what edited maps read, and how their outputs should change. No weight gradients.

For a map y = W x the gradient of a loss is the sum over tokens of g u^T, u being its input and g the loss's gradient
at its output (MEND, arXiv 2110.11309, section 3). Weights stay frozen: the first edited output is made the beginning
of the graph, so nothing below it is differentiated and no weight ever gets a gradient. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.hyper.passes import Pass, deal
from elder.mixture.samples import IGNORED, Row
from elder.models.anatomy import check_rows
from elder.runtime import Runtime

Tokens = Literal["answer", "all"]
Loss = Literal["edit", "sum", "token"]


@dataclass(frozen=True)
class Factors:
    """Of one map, in float32, in the order of rows and tokens.

    Attributes:
        inputs: U (n, d_k).
        gradients: G (n, d_v); the map's weight gradient (d_v, d_k) is G^T U.
        rows: (n,) number of the row of each token.
    """

    inputs: Tensor
    gradients: Tensor
    rows: Tensor

    @property
    def joined(self) -> Tensor:
        """[u ; g], (n, d_k + d_v): what networks and statistics read."""
        return torch.cat([self.inputs, self.gradients], dim=1)


class Recorder:
    """Notes inputs and outputs of maps while it is asked to, and lets the graph begin at the first of them.

    Args:
        maps: Name -> map. What is added to their outputs by hooks that were there before is seen.
    """

    def __init__(self, maps: Mapping[str, nn.Module]) -> None:
        self.names = tuple(maps)
        self._seen: dict[str, tuple[Tensor, Tensor]] | None = None
        for name, module in maps.items():
            module.register_forward_hook(lambda _, args, out, name=name: self._take(name, args[0], out))

    @contextmanager
    def recording(self) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        """Name -> (input, output) of the passes in the block, (B, T, d_k) and (B, T, d_v), with gradients on."""
        self._seen = {}
        try:
            with torch.enable_grad():
                yield self._seen
        finally:
            self._seen = None

    def _take(self, name: str, x: Tensor, out: Any) -> Any:
        if self._seen is None:
            return None
        check_rows(x)
        if not out.requires_grad:
            out = out.detach().requires_grad_()
        self._seen[name] = (x.detach(), out)
        return out.clone()  # Falcon adds attention to it in place

    def gradients(self, loss: Tensor, seen: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """dLoss/dy of every map, (B, T, d_v)."""
        return dict(zip(self.names, torch.autograd.grad(loss, [seen[name][1] for name in self.names]), strict=True))


def read_factors(
    model: nn.Module,
    recorder: Recorder,
    rows: Sequence[Row],
    runtime: Runtime,
    pad: int,
    tokens: Tokens = "answer",
    loss: Loss = "edit",
    micro_batch: int = 16,
) -> tuple[dict[str, Factors], Tensor]:
    """One forward and backward for each micro-batch. Collective: every rank gets the factors of all rows.

    Args:
        model: The clone that `recorder` watches.
        recorder: Of the edited maps.
        rows: Prompts with answers; `owner` is the number of its edit.
        runtime: Deals micro-batches to its ranks.
        pad: Id that fills rows up.
        tokens: Keep the positions that predict answer tokens, or all of a row.
        loss: `edit`: mean over the tokens of each edit, added up over edits; `sum`: sum over tokens; `token`: mean over
            all tokens. None depends on how rows are batched or on the number of ranks.
        micro_batch: Rows in one pass.

    Returns:
        Factors by the name of the map, and (R,) the mean cross-entropy of each row's answer.
    """
    scales = _scales(rows, loss)
    found: list[tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]] = []
    losses: list[tuple[int, float]] = []
    for batch in deal(rows, micro_batch, runtime, pad):
        with recorder.recording() as seen:
            row_losses = answer_losses(model, batch)
            scaled = row_losses * scales.to(row_losses.device)[batch.index]
            gradients = recorder.gradients(scaled.sum(), seen)
        if not batch.real:
            continue
        kept = batch.answer_mask() if tokens == "answer" else batch.attention_mask.bool()
        owner = batch.index[:, None].expand_as(kept)[kept]
        found.append((owner, {n: (seen[n][0][kept].float(), gradients[n][kept].float()) for n in recorder.names}))
        losses += zip(batch.index.tolist(), row_losses.tolist(), strict=True)
    lengths = torch.tensor([len(row.answer) for row in rows], dtype=torch.float)
    return _in_order(found, recorder.names, runtime), _losses_in_order(losses, len(rows), runtime) / lengths


def answer_losses(model: nn.Module, batch: Pass) -> Tensor:
    """(B,) summed cross-entropy of each row's answer, in float32."""
    logits: Tensor = model(**batch.inputs()).logits.float()
    labels = batch.labels
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(labels).sum(dim=1)


def _scales(rows: Sequence[Row], loss: Loss) -> Tensor:
    """(R,) what each row's summed loss is multiplied by."""
    lengths = torch.tensor([len(row.answer) for row in rows], dtype=torch.float)
    if loss == "sum":
        return torch.ones_like(lengths)
    if loss == "token":
        return torch.ones_like(lengths) / lengths.sum()
    owners = torch.tensor([row.owner for row in rows])
    totals = torch.zeros(int(owners.max()) + 1).index_add_(0, owners, lengths)
    return 1 / totals[owners]


def _in_order(
    found: Sequence[tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]], names: Sequence[str], runtime: Runtime
) -> dict[str, Factors]:
    """The parts of all ranks as one, sorted by row; the same bits on every rank."""
    if runtime.world_size > 1:
        own = [(rows.cpu(), {n: (u.cpu(), g.cpu()) for n, (u, g) in parts.items()}) for rows, parts in found]
        found = [part for rank in runtime.gather_objects(own) for part in rank]
    rows, order = torch.cat([part[0] for part in found]).sort(stable=True)
    device = runtime.device
    return {
        name: Factors(
            torch.cat([part[1][name][0] for part in found])[order].to(device),
            torch.cat([part[1][name][1] for part in found])[order].to(device),
            rows.to(device),
        )
        for name in names
    }


def _losses_in_order(own: Sequence[tuple[int, float]], count: int, runtime: Runtime) -> Tensor:
    losses = torch.zeros(count)
    for part in runtime.gather_objects(list(own)):
        for index, value in part:
            losses[index] = value
    return losses
