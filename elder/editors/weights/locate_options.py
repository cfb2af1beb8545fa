"""Options of the methods that write weights at a subject's last token. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from elder.options.checks import at_least_one, bounded_change, not_negative, positive, rising_layers
from elder.options.fields import opt


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
