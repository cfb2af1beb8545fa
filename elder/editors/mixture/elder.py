"""ELDER as published: mixture of LoRAs, guided routing, Hamming deferral.

Jiaang Li and others, "ELDER: Enhancing Lifelong Model Editing with Mixture-of-LoRA", AAAI 2025 (arXiv 2408.11869).
Where paper and reference code disagree the paper is followed, except the router's bias and the initialisation of A,
which are the code's and can be switched. One deliberate difference: a sequence is routed once, at its last prompt
token, while the reference code routes anew at every generated token, against the paper's text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from elder.base import EditOutcome
from elder.edit import Edit
from elder.editors.mixture.elder_options import ElderOptions
from elder.editors.mixture.mixture_editor import MixtureEditor, outcomes, size_of
from elder.errors import ModelError
from elder.forward.suffix import Prepared, descend
from elder.mixture.codes import CodeStore
from elder.mixture.deferral import HammingDeferral
from elder.mixture.router import Allocator, Router, guided_loss, keep_top
from elder.mixture.samples import edit_rows
from elder.models.anatomy import Anatomy
from elder.runtime import merge_shares
from elder.state import pack_json, unpack_json
from elder.state_checks import take


class ElderEditor(MixtureEditor):
    """See the module's text; the parts are in `elder/mixture/`."""

    method = "elder"
    options: ElderOptions
    growing = ("cursor", "allocations", "codes")
    texts = ("cursor", "allocations")

    def _build(self, generator: torch.Generator) -> None:
        o = self.options
        self.query_layer = self.layers[0] - 1 if o.query_layer is None else o.query_layer
        if not 0 <= self.query_layer < self.layers[0]:
            remedy = "" if self.layers[0] else "; leave block 0 out of editor.layers"
            raise ModelError(
                f"editor.query_layer: expected a block below the first edited one, {self.layers[0]}, "
                f"found {self.query_layer}{remedy}"
            )
        width = size_of(self._tap(self._parts))[0]
        device = self.base.runtime.device
        self.router = Router(width, len(self.layers), o.experts, o.router_bias, generator).to(device)
        self.allocator = Allocator(len(self.layers), o.experts, o.top_k, o.seed)
        self.codes = CodeStore(len(self.layers), o.experts, o.top_k, device)

    def _tap(self, parts: Anatomy) -> nn.Module:
        return parts.target(self.query_layer, self.options.target)

    def _deferral(self) -> HammingDeferral:
        o, router = self.options, copy.deepcopy(self.router).requires_grad_(False)
        return HammingDeferral(router, copy.deepcopy(self.codes), o.top_k, o.epsilon, None, whole=True)

    def _undo(self) -> Callable[[], None]:
        undo, codes, allocations = super()._undo(), copy.deepcopy(self.codes), self.allocator.to_json()

        def all_of_it() -> None:
            undo()
            self.codes = codes
            self.allocator.load_json(allocations)

        return all_of_it

    def trainable(self) -> list[nn.Parameter]:
        """The low-rank maps and the routers."""
        return [*super().trainable(), *self.router.parameters()]

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        rows = edit_rows(self.base.texts, edits, self.options.terminator)
        parts = self.trainer.prepare(rows)
        allocation = self.allocator.allocate([row.label for row in rows]).to(self.base.runtime.device)
        tokens = sum(len(row.answer) for row in rows)
        last: dict[int, tuple[Tensor, Tensor]] = {}

        def loss_of(number: int, part: Prepared) -> Callable[[], Tensor]:
            def loss() -> Tensor:
                log_p = self.router(part.query)
                weights, chosen = keep_top(log_p, self.options.top_k)
                answer = self.trainer.answer_losses(part, weights.transpose(0, 1))
                guide = guided_loss(log_p, allocation[list(part.index)])
                last[number] = (chosen, answer.detach())
                real = part.rows.weights
                return (answer * real).sum() / tokens + self.options.guide_weight * (guide * real).sum() / len(rows)

            return loss

        steps = [loss_of(number, part) for number, part in enumerate(parts)]
        losses = descend(self.trainable(), lambda: steps, self.options.lr, self.options.steps, self.base.runtime)
        chosen, answer = self._collect(parts, last, len(rows))
        self.codes.add(chosen)
        return outcomes(edits, rows, answer), losses

    def _collect(
        self, parts: Sequence[Prepared], last: Mapping[int, tuple[Tensor, Tensor]], count: int
    ) -> tuple[Tensor, Tensor]:
        """The codes and answer losses of the last step, of all ranks, in the order of the rows."""
        mine = []
        for number, part in enumerate(parts):
            real = int(part.rows.weights.sum())
            chosen, answer = last[number]
            mine += list(zip(chosen[:real].cpu(), answer[:real].tolist(), strict=True))
        merged = merge_shares(self.base.runtime.gather_objects(mine))[:count]
        device = self.base.runtime.device
        return torch.stack([code for code, _ in merged]).to(device), torch.tensor([loss for _, loss in merged])

    def _notes(self) -> dict[str, float]:
        return {"codes": float(len(self.codes)), "labels": float(len(self.allocator.to_json()))}

    def _state(self) -> dict[str, Tensor]:
        state = {f"router.{name}": p.detach().cpu().clone() for name, p in self.router.named_parameters()}
        state["codes"] = self.codes.state()
        state["codes.recorded"] = torch.tensor(self.codes.recorded)
        state["allocations"] = pack_json(self.allocator.to_json())
        return state

    def _load(self, state: Mapping[str, Tensor]) -> None:
        take({f"router.{name}": p for name, p in self.router.named_parameters()}, state)
        self.codes.load(state["codes"], int(state["codes.recorded"]))
        self.allocator.load_json(unpack_json(state["allocations"]))
