"""Options of elder-plus. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elder.editors.mixture.elder_options import ElderOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class ElderPlusOptions(ElderOptions):
    """Our ELDER. What differs from the paper is described, with measurements, in docs/elder_plus.md."""

    layers: tuple[int, ...] | None = opt(None, "blocks that get a mixture; default: the last three eighths")
    experts: int = opt(16, "LoRAs in each layer (N)")
    lr: float = opt(5e-3, "learning rate of Adam, which starts afresh with every batch")
    guide_weight: float = opt(1e-2, "weight of the guided loss; used with routing: router")
    batch_size: int = opt(10, "edits applied together")
    subject_layer: int = opt(0, "block whose input gives the subject keys; 0: the token embeddings")
    gate: Literal["keys", "hamming"] = opt("keys", "deferral by calibrated keys, or by Hamming distance as in ELDER")
    routing: Literal["allocated", "router"] = opt(
        "allocated", "a matched edit uses its allocated LoRAs, or what the router makes of its stored key"
    )
    start: Literal["answer", "prompt"] = opt(
        "answer", "correct from the last prompt token on, or the whole prompt as ELDER does"
    )
    parameters_per_edit: int = opt(
        3000, "room: low-rank parameters for each edit; when a group of LoRAs is full a new one opens; 0: never"
    )
    replay: int = opt(40, "rows of earlier edits in every step; 0: none")
    replay_pool: int = opt(4, "how many different sets of replayed rows a batch draws")
    prefixes: int = opt(2, "training prompts of each edit that are repeated behind an unrelated sentence")
    subject_tokens: int = opt(8, "tokens of a subject that are kept as keys")
    key_width: int = opt(256, "keys are projected to this width if the model is wider")
    subject_threshold: float | None = opt(None, "fixed threshold of the subject match; default: calibrated")
    answer_threshold: float | None = opt(None, "fixed threshold of the match at the last token; default: calibrated")
    extra_steps: int = opt(50, "further steps for a batch that is not yet learnt")
    learnt_below: float = opt(0.05, "a batch is learnt when every row's mean answer loss is below this, in nats")

    def problems(self) -> list[str]:
        """See `ElderOptions.problems`."""
        found = super().problems()
        for name in ("replay", "prefixes", "extra_steps", "parameters_per_edit", "subject_layer"):
            if getattr(self, name) < 0:
                found.append(f"{name}: must not be negative, found {getattr(self, name)}")
        for name in ("replay_pool", "subject_tokens", "key_width"):
            if getattr(self, name) < 1:
                found.append(f"{name}: must be at least 1, found {getattr(self, name)}")
        return found
