"""ROME: one fact at a time, exactly, by a rank-one change of one block."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from elder.edit import Edit
from elder.editors.weights.locate import LocateEditor
from elder.editors.weights.rome_options import RomeOptions
from elder.solvers.equality import equality_gain
from elder.solvers.key_covariance import KeyCovariance
from elder.targets.contexts import SEEDS, Contexts, sample_contexts
from elder.targets.observe import Seen

SHORT, LONG, EACH = 5, 10, 10  # ten texts of five tokens and ten of ten, section 3.1's code


class RomeEditor(LocateEditor):
    """ROME (arXiv 2202.05262, eq. 2): D = r (C^-1 k)^T / (k0 . C^-1 k), k the mean key, k0 the bare prompt's.

    The value is an output of the MLP; the fact holds exactly at the bare prompt. `shared_key` uses the mean on both
    sides, as "Rebuilding ROME" proposes against disabling edits.
    """

    method = "rome"
    options: RomeOptions

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Block 5 of 32 (EasyEdit's Llama-2-7B), at this relative depth."""
        return (min(depth - 1, max(1, round(depth * 5 / 32))),)

    def _sample(self) -> Contexts:
        """Texts that the model begins on its own, each counting like the bare prompt; few if `contexts` is small."""
        o, base = self.options, self.base
        if o.contexts < len(SEEDS) or base.tokenizer.bos_token_id is None:
            return super()._sample()
        texts: list[str] = []
        for number, tokens in enumerate((SHORT, LONG)):
            found = sample_contexts(
                self._clone, base.tokenizer, base.runtime, o.seed + number, [""] * EACH, tokens, False
            )
            texts += found.texts[1 if texts else 0 :]  # the bare prompt once
        return Contexts((tuple(texts),))

    def _grouped(self) -> bool:
        return False

    def _batches(self, edits: Sequence[Edit]) -> list[list[Edit]]:
        return [[edit] for edit in edits]

    def _starts(self, seen: Seen) -> Tensor:
        """The MLP's outputs, as they are added to the residual stream."""
        return seen.outputs[self.layers[-1]] * self._share(self.layers[-1])

    def _factors(self, layer: int, keys: Tensor, bare: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        prior = self.prior(layer) if self.options.statistics else KeyCovariance(None, self.width)
        gain = equality_gain(keys, prior)
        if not self.options.shared_key:
            gain = gain / (gain @ bare.double())  # the bare key then gives exactly 1
        return residuals, gain
