"""A trial of one block of facts: its changes, the losses of the model with them, and the gradient of the networks.

The gradient passes the ridge regression in closed form (MALMEN, arXiv 2311.04661, section 3.3), so that the
graphs of model and networks are never in memory together: the model gives G = dL/dS, the regression dL/dT and
dL/drho, and the networks are run again in chunks with a graph. Knows nothing of optimisers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.editors.weights.deltas import Deltas
from elder.hyper.aggregate import malmen_shifts, ridge_factors, slim, sum_factors
from elder.hyper.factors import Factors, Recorder, answer_losses
from elder.hyper.network import HyperNetwork
from elder.hyper.passes import deal
from elder.mixture.samples import Row
from elder.runtime import Runtime, share


@dataclass(frozen=True)
class Applied:
    """The change of one map.

    Attributes:
        left: (d_v, n); for MALMEN the transposed shifts T^T.
        right: (n, d_k); for MALMEN (U U^T + lam I)^-1 U in float64.
    """

    left: Tensor
    right: Tensor

    @property
    def dense(self) -> Tensor:
        """D (d_v, d_k) in float32."""
        left, right = slim(self.left, self.right)
        return (left.to(right) @ right).float()


@dataclass(frozen=True)
class Trial:
    """The losses of the model with a block applied.

    Attributes:
        edit_loss: Mean cross-entropy over the answer tokens of the equivalent prompts.
        locality_loss: Mean KL(before || after) over the answer tokens of the unrelated prompts.
        gradients: dL/dD (d_v, d_k) of each map, L being the weighted sum of both; empty if not asked for.
    """

    edit_loss: float
    locality_loss: float
    gradients: dict[str, Tensor]


@torch.no_grad()
def changes_of(
    network: HyperNetwork, factors: Mapping[str, Factors], runtime: Runtime, chunk: int
) -> dict[str, Applied]:
    """The change of every map that a block's factors ask for. Collective: chunks of tokens are dealt to the ranks."""
    pieces = list(_chunks(factors, chunk))
    own = [(number, network(name, *_cut(factors[name], part))) for number, (name, part) in _own(pieces, runtime)]
    if runtime.world_size > 1:
        sent = [(number, (uh.cpu(), gh.cpu())) for number, (uh, gh) in own]
        own = sorted((one for rank in runtime.gather_objects(sent) for one in rank), key=lambda one: one[0])
    pseudo: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in factors}
    for number, pair in own:
        pseudo[pieces[number][0]].append(pair)
    return {name: _applied(network, name, factors[name], pseudo[name]) for name in factors}


def _applied(network: HyperNetwork, name: str, factors: Factors, pseudo: Sequence[tuple[Tensor, Tensor]]) -> Applied:
    device = factors.inputs.device
    uh, gh = (torch.cat([pair[i].to(device) for pair in pseudo]) for i in (0, 1))
    if network.style == "mend":
        return Applied(*sum_factors(uh, gh, network.lr(name)))
    shifts = malmen_shifts(factors.inputs, uh, gh, network.lr(name))
    return Applied(*ridge_factors(factors.inputs, shifts, network.ridge(name)))


def try_out(
    model: nn.Module,
    recorder: Recorder,
    deltas: Deltas[str],
    changes: Mapping[str, Tensor],
    equivalents: Sequence[Row],
    unrelated: Sequence[Row],
    runtime: Runtime,
    pad: int,
    micro_batch: int,
    weights: tuple[float, float],
    gradients: bool = True,
) -> Trial:
    """Both losses with the changes (d_v, d_k) active, and their gradient; afterwards nothing has changed. Collective.

    Args:
        model: The clone that `recorder` and `deltas` are attached to.
        recorder: Of the edited maps.
        deltas: Applies the changes.
        changes: D of each map.
        equivalents: Rephrased prompts with the new answers.
        unrelated: Other prompts, with answers where there are some.
        runtime: Deals micro-batches to its ranks.
        pad: Id that fills rows up.
        micro_batch: Rows in one pass.
        weights: Of the two losses in the gradient.
        gradients: Whether to compute it.
    """
    found = {name: torch.zeros_like(change) for name, change in changes.items()} if gradients else {}
    sums = torch.zeros(2, dtype=torch.float64)
    tokens = sum(len(row.answer) for row in equivalents), sum(max(1, len(row.answer)) for row in unrelated)
    for which, rows in enumerate((equivalents, unrelated)):
        for batch in deal(rows, micro_batch, runtime, pad):
            before = None
            if which:
                with torch.no_grad(), deltas.disabled():
                    before = model(**batch.inputs()).logits.float().log_softmax(-1)
            with deltas.trying(changes), recorder.recording() as seen:
                if before is None:
                    loss = answer_losses(model, batch).sum() / tokens[0]
                else:
                    after = model(**batch.inputs()).logits.float().log_softmax(-1)
                    kl = F.kl_div(after, before, reduction="none", log_target=True).sum(-1)
                    loss = (kl * batch.counted).sum() / tokens[1]
                slopes = recorder.gradients(loss * weights[which], seen) if gradients else {}
            if not batch.real:
                continue
            sums[which] += float(loss.detach())
            mask = batch.attention_mask.bool()
            for name, slope in slopes.items():
                found[name] += slope[mask].float().mT @ seen[name][0][mask].float()
    sums = runtime.sum(sums.to(runtime.device)).cpu()
    return Trial(float(sums[0]), float(sums[1]), {name: runtime.sum(g) for name, g in found.items()})


def ridge_gradients(applied: Applied, inputs: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Through S = (U^T U + lam I)^-1 U^T T, from G = dL/dD = (dL/dS)^T, in float64.

    With A = M^-1 G^T: dL/dT = U A (n, d_v), and dL/drho = -lam <A, S> for lam = exp(rho). Since lam M^-1 = I - U^T gain
    with gain = U M^-1, both need the gain that the update was made with and no further solve.

    Args:
        applied: The update, its `right` being the gain.
        inputs: U (n, d_k).
        slope: G (d_v, d_k).
    """
    gain, g = applied.right.double(), slope.double().mT
    s = (applied.left.double() @ gain).mT
    by_shift = gain @ g
    return by_shift, -((g * s).sum() - (by_shift * (inputs.double() @ s)).sum())


def backward(
    network: HyperNetwork,
    factors: Mapping[str, Factors],
    applied: Mapping[str, Applied],
    slopes: Mapping[str, Tensor],
    runtime: Runtime,
    chunk: int,
) -> None:
    """Add the meta-gradient to the networks' `.grad`, the same bits on every rank. Collective.

    Args:
        network: Made the changes.
        factors: Of the block.
        applied: The changes.
        slopes: dL/dD (d_v, d_k) of each map.
        runtime: Chunks are dealt to its ranks, gradients summed over them.
        chunk: Tokens that pass with a graph together.
    """
    pending = {name: p.grad for name, p in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    for name in share(list(factors), runtime):
        if network.style == "malmen":
            _, slope = ridge_gradients(applied[name], factors[name].inputs, slopes[name])
            by_ridge = torch.zeros_like(network.log_ridge)
            by_ridge[network.number(name)] = slope.to(by_ridge)
            grad = network.log_ridge.grad
            network.log_ridge.grad = by_ridge if grad is None else grad + by_ridge
    shifts: dict[str, Tensor] = {}
    for _, (name, part) in _own(list(_chunks(factors, chunk)), runtime):
        u, g = _cut(factors[name], part)
        uh, gh = network(name, u, g)
        if network.style == "mend":
            proxy = -network.lr(name) * ((gh @ slopes[name]) * uh).sum()
        else:
            if name not in shifts:
                shifts = {name: ridge_gradients(applied[name], factors[name].inputs, slopes[name])[0].float()}
            proxy = (shifts[name][part] * malmen_shifts(u, uh, gh, network.lr(name))).sum()
        proxy.backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        own = runtime.sum(own)
        earlier = pending[name]
        parameter.grad = own if earlier is None else earlier + own


def _chunks(factors: Mapping[str, Factors], chunk: int) -> Iterator[tuple[str, slice]]:
    for name, own in factors.items():
        for begin in range(0, len(own.inputs), chunk):
            yield name, slice(begin, begin + chunk)


def _own(pieces: Sequence[tuple[str, slice]], runtime: Runtime) -> list[tuple[int, tuple[str, slice]]]:
    return share(list(enumerate(pieces)), runtime)


def _cut(factors: Factors, part: slice) -> tuple[Tensor, Tensor]:
    return factors.inputs[part], factors.gradients[part]
