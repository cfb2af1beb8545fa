"""Options of the methods that write weights at a subject's last token. Imports no torch."""

from __future__ import annotations

from typing import Literal

from elder.options.fields import Count, Layers, Natural, NotNegative, Positive, Settings, Whole, setting


class LocateOptions(Settings):
    """What ROME, MEMIT, EMMET and AlphaEdit share: where they write and how they find values."""

    layers: Layers | None = setting(None, "blocks that are written; default: the method's, by relative depth")
    fact_token: Literal["subject_last", "last"] = setting(
        "subject_last", "where a fact is written: at the subject's last token, as published, or the prompt's last token"
    )
    steps: Count = setting(25, "forward passes of the value optimisation; the last one only measures")
    lr: Positive = setting(0.5, "learning rate of the value optimisation (Adam)")
    kl_factor: NotNegative = setting(0.0625, "weight of KL(now || before) behind the subject in `SUBJECT is a`")
    kl_position: Literal["subject", "end"] = setting(
        "subject", "where that is measured: at the subject, as the reference code does, or at the end of the text"
    )
    decay: NotNegative = setting(0.5, "weight of ||change|| / ||start||^2 in the value's loss")
    clamp: Positive = setting(0.75, "a value stays within so many times the length of its start")
    stop: NotNegative = setting(0.05, "a value is found when its loss is below this")
    contexts: Natural = setting(5, "texts, sampled from the model, that are put before prompts", le=5)
    context_tokens: Count = setting(10, "tokens of each such text")
    batch_size: Count = setting(10, "edits written together")
    value_batch: Count = setting(16, "edits in one forward pass of the value optimisation")
    jitter: NotNegative = setting(0.0, "added to the diagonal of the statistics, in units of its mean")
    max_change: Positive | None = setting(
        None, "refuse a batch whose ||D|| / ||W|| in a block is above this, before it is written; null writes all"
    )
    seed: Whole = setting(0, "seed of the sampled texts")
    text: str | None = setting(
        None,
        "text of the statistics: a file (a document a line, or paragraphs between blank lines; `.jsonl` with a field "
        "`text`; either may be `.gz`), `hub:DATASET:CONFIG`, or `world:NAME`; default: what an embedded base model was "
        "taught, other base models need one",
    )
    text_tokens: Count | None = setting(
        100_000, "tokens of it that are read; null: all. Take several times the inner width of the MLPs, or more"
    )
    bos: bool = setting(
        False, "count begin-of-text tokens in the statistics; they are sinks with keys unlike all others"
    )

    @property
    def needs_subject(self) -> bool:
        """Whether edits must name a subject that stands in the prompt."""
        return self.fact_token == "subject_last"

    @property
    def needs_statistics(self) -> bool:
        """Whether a text is read."""
        return True
