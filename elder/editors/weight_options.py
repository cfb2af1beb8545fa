"""Options of the methods that write weights at a subject's last token. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from elder.editors.option_checks import at_least_one, bounded_change, not_negative, positive, rising_layers
from elder.editors.options import opt


@dataclass(frozen=True)
class LocateOptions:
    """What ROME, MEMIT, EMMET and AlphaEdit share: where they write and how they find values."""

    needs_subject: ClassVar[bool] = True  # edits must name a subject that stands in the prompt

    layers: tuple[int, ...] | None = opt(None, "blocks that are written; default: the method's, by relative depth")
    fact_token: Literal["subject_last", "last"] = opt(
        "subject_last", "where a fact is written: at the subject's last token, as published, or the prompt's last token"
    )
    steps: int = opt(25, "forward passes of the value optimisation; the last one only measures")
    lr: float = opt(0.5, "learning rate of the value optimisation (Adam)")
    kl_factor: float = opt(0.0625, "weight of KL(now || before) behind the subject in `SUBJECT is a`")
    kl_position: Literal["subject", "end"] = opt(
        "subject", "where that is measured: at the subject, as the reference code does, or at the end of the text"
    )
    decay: float = opt(0.5, "weight of ||change|| / ||start||^2 in the value's loss")
    clamp: float = opt(0.75, "a value stays within so many times the length of its start")
    stop: float = opt(0.05, "a value is found when its loss is below this")
    contexts: int = opt(5, "texts, sampled from the model, that are put before prompts (0 to 5)")
    context_tokens: int = opt(10, "tokens of each such text")
    batch_size: int = opt(10, "edits written together")
    value_batch: int = opt(16, "edits in one forward pass of the value optimisation")
    jitter: float = opt(0.0, "added to the diagonal of the statistics, in units of its mean")
    max_change: float | None = opt(
        None, "refuse a batch whose ||D|| / ||W|| in a block is above this, before it is written; null writes all"
    )
    seed: int = opt(0, "seed of the sampled texts")
    text: str | None = opt(
        None,
        "text of the statistics: a file (a document a line, or paragraphs between blank lines; `.jsonl` with a field "
        "`text`; either may be `.gz`), `hub:DATASET:CONFIG`, or `world:NAME`; default: what an embedded base model was "
        "taught, other base models need one",
    )
    text_tokens: int | None = opt(
        100_000, "tokens of it that are read; null: all. Take several times the inner width of the MLPs, or more"
    )
    bos: bool = opt(False, "count begin-of-text tokens in the statistics; they are sinks with keys unlike all others")

    @property
    def needs_statistics(self) -> bool:
        """Whether a text is read."""
        return True

    def problems(self) -> list[str]:
        """What is impossible about these values, each line beginning with the option's name."""
        found = at_least_one(self, "steps", "context_tokens", "batch_size", "value_batch")
        found += not_negative(self, "kl_factor", "decay", "stop", "jitter") + positive(self, "lr", "clamp")
        found += at_least_one(self, "text_tokens") if self.text_tokens is not None else []
        found += [] if 0 <= self.contexts <= 5 else [f"contexts: must be 0 to 5, found {self.contexts}"]
        return found + bounded_change(self.max_change) + rising_layers(self.layers)


@dataclass(frozen=True)
class RomeOptions(LocateOptions):
    """ROME (arXiv 2202.05262): one fact at a time, exactly, in one block."""

    clamp: float = opt(4.0, "a value stays within so many times the length of its start")
    batch_size: int = opt(1, "edits handed over together; ROME writes them one after another")
    statistics: bool = opt(True, "weigh directions by the second moment of ordinary keys; off: plain minimum norm")
    shared_key: bool = opt(
        False, "use the mean key on both sides of the update (R-ROME); off: mean and bare key, as published"
    )

    @property
    def needs_statistics(self) -> bool:
        """Not for the plain minimum norm."""
        return self.statistics

    def problems(self) -> list[str]:
        """What is impossible."""
        several = self.layers is not None and len(self.layers) > 1
        return super().problems() + (["layers: ROME writes one block"] if several else [])


@dataclass(frozen=True)
class MemitOptions(LocateOptions):
    """MEMIT (arXiv 2210.07229): a batch of facts by least squares, spread over several blocks."""

    ridge: float = opt(15_000.0, "weight of preservation (lambda, mom2_update_weight)")
    cache: bool = opt(True, "preserve the keys of earlier batches too, so that batch size is a question of speed")

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + ([] if self.ridge > 0 else [f"ridge: must be positive, found {self.ridge}"])


@dataclass(frozen=True)
class EmmetOptions(LocateOptions):
    """EMMET (arXiv 2403.14236): facts of a batch exactly, or, regularised, MEMIT with lambda = weight x ridge."""

    weight: float = opt(1.0, "weight of preservation (w, mom2_update_weight)")
    ridge: float = opt(0.1, "regulariser (a, emmet_lambda); 0: every fact holds exactly")

    def problems(self) -> list[str]:
        """What is impossible."""
        found = super().problems()
        if not self.weight > 0:
            found.append(f"weight: must be positive, found {self.weight}")
        if not self.ridge >= 0:
            found.append(f"ridge: must not be negative, found {self.ridge}")
        return found


@dataclass(frozen=True)
class AlphaEditOptions(LocateOptions):
    """AlphaEdit (arXiv 2410.02355): least squares inside the directions that ordinary text hardly uses."""

    threshold: float = opt(2e-2, "directions with a second moment below this are free to be written")
    relative: bool = opt(False, "measure the threshold in units of the mean second moment of the layer")
    ridge: float = opt(10.0, "weight of the update's own size (L2)")

    def problems(self) -> list[str]:
        """What is impossible."""
        found = super().problems()
        if not self.ridge > 0:
            found.append(f"ridge: must be positive, found {self.ridge}")
        if not self.threshold > 0:
            found.append(f"threshold: must be positive, found {self.threshold}")
        return found
