"""The value optimisation as published: one edit at a time, every step through the whole model, all logits.

A yardstick, written plainly after the description (MEMIT section 4.2, ROME section 3.1 and what their code does): no
prefix is kept, nothing is batched over edits, the log-softmax is taken at every position. Rows of one edit are one
padded batch, as in the reference code. The options and the result are those of `elder.targets.values.find_values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.forward.upper import ValueRow
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.targets.values import BETAS, EPS, ValueOptions


class PlainValues:
    """Finds values on a model, one edit after another.

    Args:
        model: The model; not changed.
        layer: The block whose output changes at the subject's last token.
        pad: Id that fills rows up, on the right as the reference code has it.
    """

    def __init__(self, model: PreTrainedModel, layer: int, pad: int) -> None:
        self.model, self.pad = clone_sharing_weights(model), pad
        self._change: Tensor | None = None
        self._at: Tensor | None = None
        anatomy(self.model).blocks[layer].register_forward_hook(self._add)

    def find(self, rows: Sequence[Sequence[ValueRow]], starts: Tensor, options: ValueOptions) -> Tensor:
        """The change of each edit, (E, D)."""
        return torch.stack([self._one(own, start, options) for own, start in zip(rows, starts, strict=True)])

    def _one(self, rows: Sequence[ValueRow], start: Tensor, o: ValueOptions) -> Tensor:
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([[*row.ids, *[self.pad] * (width - len(row.ids))] for row in rows])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
        self._at = torch.tensor([row.at for row in rows])
        change = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([change], lr=o.lr, betas=BETAS, eps=EPS)
        before: list[Tensor] = []
        for step in range(o.steps):
            self._change = change
            log_probs = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
            loss = self._loss(log_probs, rows, before, change, start, o)
            if float(loss.detach()) < o.stop or step == o.steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                limit = o.clamp * start.norm()
                if change.norm() > limit:
                    change.mul_(limit / change.norm())
        self._change = None
        return change.detach()

    def _loss(
        self, log_probs: Tensor, rows: Sequence[ValueRow], before: list[Tensor], change: Tensor, start: Tensor, o: Any
    ) -> Tensor:
        nll, kl, quiet = [], [], []
        for i, row in enumerate(rows):
            told = log_probs[i, list(row.places)]
            if row.labels:
                nll.append(-told.gather(1, torch.tensor(row.labels)[:, None]).mean())
            else:
                quiet.append(told[0])
        if not before:
            before.extend(one.detach() for one in quiet)
        for now, then in zip(quiet, before, strict=True):
            kl.append((now.exp() * (now - then)).sum())
        decay = o.decay * change.square().sum().clamp(min=1e-30).sqrt() / start.norm() ** 2
        return torch.stack(nll).mean() + o.kl_factor * torch.stack(kl).mean() + decay

    def _add(self, _: nn.Module, __: Any, out: Any) -> Any:
        if self._change is None or self._at is None:
            return None
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[torch.arange(len(hidden)), self._at] += self._change
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden
