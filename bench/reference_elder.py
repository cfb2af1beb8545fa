"""A plain formulation of the reference ELDER algorithm, the yardstick of `bench/elder.py`. Not part of the product.

Written from the method's description, in the way the published code goes about it: N experts computed one by one and
stacked for all rows, every layer asking its own router, a full forward of the whole model with all logits in each
iteration, stored codes in a Python list that is concatenated at every call and compared by brute force, scope as a
Python list that every layer uploads again. Left out are that code's faults (a random bias on maps without bias, a
crash before the first edit). It routes at the last prompt token when told where that is, else at the last column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.edit import Edit
from elder.editors.mixture.elder import ElderEditor
from elder.mixture.router import Allocator
from elder.mixture.samples import IGNORED, Row, edit_rows
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.tokens import pad_id, pad_left


@dataclass
class Shared:
    """What the layers tell each other during a forward pass.

    Attributes:
        key: (B,) index of the last prompt token, or None for the last column.
        query: (B, Q) what the routers read.
        scope: One flag a row.
        training: All rows are in scope.
        recording: The codes of this pass are stored.
        codes: One (B, L*N) tensor for every recorded pass.
    """

    epsilon: int
    key: Tensor | None = None
    query: Tensor | None = None
    scope: list[bool] = field(default_factory=list)
    training: bool = False
    recording: bool = False
    codes: list[Tensor] = field(default_factory=list)


class DenseMixture(nn.Module):
    """A linear map and N low-rank maps beside it, each computed for all rows."""

    def __init__(
        self, base: nn.Module, mixture: nn.Module, weight: Tensor, bias: Tensor | None, k: int, shared: Shared
    ):
        super().__init__()
        self.base, self.k, self.shared, self.scale = base, k, shared, mixture.scale
        split = mixture.rank
        self.a = nn.ParameterList([part.detach().clone() for part in mixture.a.split(split, dim=1)])
        self.b = nn.ParameterList([part.detach().clone() for part in mixture.b.split(split, dim=0)])
        self.router = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
        self.router.weight.data.copy_(weight)
        if bias is not None:
            self.router.bias.data.copy_(bias)

    def probabilities(self) -> Tensor:
        """(B, N) of all experts."""
        return torch.softmax(self.router(self.shared.query), dim=-1)

    def code(self) -> Tensor:
        """(B, N) int, k ones: the experts that the query would use here."""
        probabilities = self.probabilities()
        return torch.zeros_like(probabilities).scatter(-1, probabilities.topk(self.k, dim=-1).indices, 1.0).int()

    def guided(self, target: Tensor) -> Tensor:
        """The layer's share of the guided loss; target (B, N)."""
        log_p = torch.log_softmax(self.router(self.shared.query), dim=-1)
        return -(log_p * target).sum() / len(target)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)."""
        y = self.base(x)
        kept = self.probabilities().topk(self.k, dim=-1)
        weights = torch.zeros(len(x), len(self.a), device=x.device).scatter(-1, kept.indices, kept.values)
        experts = torch.stack([(x @ a) @ b * self.scale for a, b in zip(self.a, self.b, strict=True)], dim=1)
        delta = torch.einsum("bn,bnto->bto", weights, experts)
        inside = torch.tensor(self.shared.scope, device=x.device)
        return torch.where(inside[:, None, None], y + delta, y)


class ReferenceElder:
    """The reference algorithm with the options and the present weights of one of our editors.

    Args:
        editor: A fresh `ElderEditor`; only its options, initial weights and seed of allocation are taken.
    """

    def __init__(self, editor: ElderEditor) -> None:
        self.base, self.options = editor.base, editor.options
        o = self.options
        self.model = clone_sharing_weights(editor.base.model)
        parts, names = anatomy(self.model), {module: name for name, module in self.model.named_modules()}
        self.shared = Shared(o.epsilon)
        parts.target(editor.query_layer, o.target).register_forward_pre_hook(self._observe)
        weights = editor.router.weight.detach().split(o.experts)
        biases = [None] * len(weights) if editor.router.bias is None else editor.router.bias.detach().split(o.experts)
        self.layers: list[DenseMixture] = []
        for at, (block, mixture) in enumerate(zip(editor.layers, editor.mixtures, strict=True)):
            target = parts.target(block, o.target)
            dense = DenseMixture(target, mixture, weights[at], biases[at], o.top_k, self.shared)
            parent, _, name = names[target].rpartition(".")
            setattr(self.model.get_submodule(parent), name, dense)
            self.layers.append(dense)
        self.allocator = Allocator(len(self.layers), o.experts, o.top_k, o.seed)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return [p for layer in self.layers for p in (*layer.a, *layer.b, *layer.router.parameters())]

    def edit(self, edits: Sequence[Edit]) -> list[list[float]]:
        """Apply edits batch by batch; the loss of every step of every batch."""
        size = self.options.batch_size
        return [self._learn(edits[begin : begin + size]) for begin in range(0, len(edits), size)]

    def scope(self, input_ids: Tensor, attention_mask: Tensor) -> list[bool]:
        """Which left-padded prompts are in scope."""
        self.logits(input_ids, attention_mask)
        return list(self.shared.scope)

    @torch.no_grad()
    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T, V) of left-padded prompts."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).logits

    def _learn(self, edits: Sequence[Edit]) -> list[float]:
        rows = edit_rows(self.base.tokenizer, edits, self.options.terminator)
        targets = self.allocator.allocate([row.label for row in rows]).to(self.base.runtime.device).float()
        ids, mask, positions, keys, labels = self._batch(rows)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.options.lr)
        shared, losses = self.shared, []
        shared.training, shared.key = True, keys
        for step in range(self.options.steps):
            shared.recording = step == self.options.steps - 1
            optimizer.zero_grad()
            logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
            answer = F.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
            )
            guide = sum(layer.guided(targets[:, at]) for at, layer in enumerate(self.layers))
            loss = answer + self.options.guide_weight * guide
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        shared.training, shared.recording, shared.key = False, False, None
        optimizer.zero_grad()
        return losses

    def _batch(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        device = self.base.runtime.device
        ids, mask, positions = pad_left([row.prompt + row.answer for row in rows], pad_id(self.base.tokenizer), device)
        labels = torch.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            labels[i, -len(row.answer) :] = ids[i, -len(row.answer) :]
        keys = torch.tensor([ids.shape[1] - len(row.answer) - 1 for row in rows], device=device)
        return ids, mask, positions, keys, labels

    def _observe(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Query, codes and scope of the present pass, before the first edited layer."""
        shared, x = self.shared, args[0].detach()
        last = torch.full((len(x),), x.shape[1] - 1, device=x.device) if shared.key is None else shared.key
        shared.query = x[torch.arange(len(x), device=x.device), last]
        if shared.training and not shared.recording:
            shared.scope = [True] * len(x)
            return
        with torch.no_grad():
            code = torch.cat([layer.code() for layer in self.layers], dim=-1)
        if shared.training:
            shared.codes.append(code)
            shared.scope = [True] * len(x)
        else:
            shared.scope = in_scope(code, shared.codes, shared.epsilon)


def in_scope(code: Tensor, stored: Sequence[Tensor], epsilon: int) -> list[bool]:
    """Whether each code (B, L*N) is nearer than epsilon to one of the stored ones, all of them compared."""
    if not stored:
        return [False] * len(code)
    distance = (code[:, None, :] != torch.cat(list(stored))[None, :, :]).sum(-1)
    return (distance.amin(dim=1) < epsilon).tolist()
