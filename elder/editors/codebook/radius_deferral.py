"""The routing rule of GRACE: a prompt within the radius of its nearest key gets that key's value."""

from __future__ import annotations

import torch
from torch import Tensor

from elder.editors.codebook.radius_keys import RadiusKeys
from elder.mixture.answers import AnswerBias
from elder.mixture.deferral import Prompts
from elder.mixture.route import ENDLESS, Routes

LENGTHS = {"last": 1, "prompt": 0, "all": ENDLESS}
"""Way of replacing -> how many tokens have the value from the last prompt token on."""


class RadiusDeferral:
    """See the module's text, and `elder.mixture.deferral.Deferral`.

    Args:
        keys: Not changed afterwards.
        replace: `last`, `prompt` or `all`: where the value stands.
    """

    reads_subject = False
    answer_tokens = 0
    may_ask = False
    bias: AnswerBias | None = None

    def __init__(self, keys: RadiusKeys, replace: str) -> None:
        self.keys, self.length, self.whole = keys, LENGTHS[replace], replace != "last"

    def __len__(self) -> int:
        """Number of keys."""
        return len(self.keys)

    def decide(self, prompts: Prompts) -> Routes:
        """See `Deferral.decide`; in the place of gates stands the number of the value, see `Values`."""
        found, device = self.keys.find(prompts.last), prompts.last.device
        score = found.score.float()[:, None].expand(-1, 2).to(device)
        inside, owner = found.inside.to(device), found.owner.to(device)
        gates = found.value.float()[:, None, None].to(device)
        return Routes(inside, gates, torch.zeros_like(owner), owner, score, torch.full_like(owner, self.length))

    def named(self, prompts: Prompts) -> Tensor:
        """See `Deferral.named`: keys know no subject."""
        return torch.zeros(len(prompts.last), dtype=torch.bool, device=prompts.last.device)

    def asks(self, routes: Routes) -> Tensor:
        """See `Deferral.asks`: nobody is asked."""
        return torch.zeros_like(routes.inside)

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """See `Deferral.agrees`."""
        return routes.inside
