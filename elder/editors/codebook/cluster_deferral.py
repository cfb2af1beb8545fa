"""The routing rule of MELO: a prompt whose key lies in a cluster uses the block of the nearest point in it."""

from __future__ import annotations

import torch
from torch import Tensor

from elder.editors.codebook.clusters import Clusters
from elder.mixture.answers import AnswerBias
from elder.mixture.deferral import Prompts
from elder.mixture.route import Routes


class ClusterDeferral:
    """See the module's text, and `elder.mixture.deferral.Deferral`.

    Args:
        clusters: Not changed afterwards.
        layers: Number of edited layers (L).
    """

    reads_subject = False
    answer_tokens = 0
    may_ask = False
    whole = True
    bias: AnswerBias | None = None

    def __init__(self, clusters: Clusters, layers: int) -> None:
        self.clusters, self.layers = clusters, layers

    def __len__(self) -> int:
        """Number of clusters."""
        return len(self.clusters)

    def decide(self, prompts: Prompts) -> Routes:
        """See `Deferral.decide`; in the place of gates stands the number of the block, see `Blocks`."""
        found, device = self.clusters.find(prompts.last), prompts.last.device
        gates = found.block.float()[:, None, None].expand(-1, self.layers, 1).to(device)
        score = found.score.float()[:, None].expand(-1, 2).to(device)
        inside, owner = found.inside.to(device), found.owner.to(device)
        return Routes(inside, gates, torch.zeros_like(owner), owner, score)

    def named(self, prompts: Prompts) -> Tensor:
        """See `Deferral.named`: keys know no subject."""
        return torch.zeros(len(prompts.last), dtype=torch.bool, device=prompts.last.device)

    def asks(self, routes: Routes) -> Tensor:
        """See `Deferral.asks`: nobody is asked."""
        return torch.zeros_like(routes.inside)

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """See `Deferral.agrees`."""
        return routes.inside
