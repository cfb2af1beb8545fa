"""Options of elder-plus. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from elder.editors.mixture.elder_options import ElderOptions
from elder.options.fields import Count, Layers, Natural, NotNegative, Number, Rate, setting


class ElderPlusOptions(ElderOptions):
    """Our ELDER. What differs from the paper is described, with measurements, in docs/elder_plus.md."""

    FORMER: ClassVar[Mapping[str, Any]] = {
        "distance": None,
        "whole_words": False,
        "ask_base": None,
        "after_answer": "edited",
        "replaces": "prompt",
        "center": "first",
        "trade": None,
        "answer_bias": 0.0,
    }

    layers: Layers | None = setting(None, "blocks that get a mixture; default: the last three eighths")
    experts: Count = setting(16, "LoRAs in each layer (N)")
    lr: Rate = setting(5e-3, "learning rate of Adam, which starts afresh with every batch")
    guide_weight: NotNegative = setting(1e-2, "weight of the guided loss; used with routing: router")
    batch_size: Count = setting(10, "edits applied together")
    subject_layer: Natural = setting(0, "block whose input gives the subject keys; 0: the token embeddings")
    gate: Literal["keys", "hamming"] = setting(
        "keys", "deferral by calibrated keys, or by Hamming distance as in ELDER"
    )
    routing: Literal["allocated", "router"] = setting(
        "allocated", "a matched edit uses its allocated LoRAs, or what the router makes of its stored key"
    )
    start: Literal["answer", "prompt"] = setting(
        "answer", "correct from the last prompt token on, or the whole prompt as ELDER does"
    )
    parameters_per_edit: Natural = setting(
        3000, "room: low-rank parameters for each edit; when a group of LoRAs is full a new one opens; 0: never"
    )
    replay: Natural = setting(40, "rows of earlier edits in every step; 0: none")
    replay_pool: Count = setting(4, "how many different sets of replayed rows a batch draws")
    prefixes: Natural = setting(2, "training prompts of each edit that are repeated after an unrelated sentence")
    subject_tokens: Count = setting(8, "tokens of a subject that are kept as keys", le=1024)
    key_width: Count = setting(256, "keys are projected to this width if the model is wider")
    ask_base: Number | None = setting(
        -4.0,
        "a prompt is about an edit only if the base gives the old answer's first token at least this log-probability, "
        "where it knows the old answer; null: it is not asked",
    )
    trade: NotNegative | None = setting(
        8.0,
        "where the base is asked: nats of the old answer's log-probability above `ask_base` that make up for an answer "
        "key whose similarity is 1 too low (by 0.25 at most); null: nothing makes up for it",
    )
    answer_bias: NotNegative = setting(
        4.0,
        "nats added to the logit of the new answer's next token while the text since the prompt is a beginning of it; "
        "0: none",
    )
    after_answer: Literal["base", "edited"] = setting(
        "base", "what generates the text after the new answer; base: the correction ends with the answer"
    )
    distance: Natural | None = setting(
        4, "tokens by which a prompt may end further from its subject than the edit's own prompts; none: any number"
    )
    whole_words: bool = setting(True, "a subject that goes on as a longer word (Pascal, Pascalson) is another one")
    replaces: Literal["relation", "prompt"] = setting(
        "relation",
        "which earlier edit a new one corrects: that of the same subject that asks the same, in any wording, or only "
        "that of the same prompt",
    )
    center: Literal["stream", "first"] = setting(
        "stream",
        "around what answer keys are compared: the mean of all that are stored, whatever the batches were, or that of "
        "the first batch",
    )
    subject_threshold: Number | None = setting(None, "fixed threshold of the subject match; default: calibrated")
    answer_threshold: Number | None = setting(
        None, "fixed threshold of the match at the last token; default: calibrated"
    )
    extra_steps: Natural = setting(50, "further steps for a batch that is not yet learnt", le=1_000_000)
    learnt_below: Number = setting(0.05, "a batch is learnt when every row's mean answer loss is below this, in nats")
