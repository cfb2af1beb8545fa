"""Questions and answers: WikiBigEdit, UltraEditBench, UnKE, and others of their kind, by the names that they use."""

from __future__ import annotations

from itertools import product

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import probed_edit
from elder.edit import Edit

PROMPTS = ("update", "question", "prompt", "src")
ANSWERS = ("ans", "answer")
REPHRASES = ("rephrase", "rephrase_prompt", "para_question")
LOCALITY = (("loc", "loc_ans"), ("locality_prompt", "locality_ground_truth"))
PORTABILITY = (("mhop", "mhop_ans"), ("sub_question", "sub_answer"), ("portability_prompt", "portability_ground_truth"))

FIELDS = tuple(frozenset(pair) for pair in product(PROMPTS, ANSWERS))


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one record. A single rephrase is held out; of several, the first half trains.

    Portability are WikiBigEdit's questions of several hops (`mhop`) and UnKE's `sub_question`s. WikiBigEdit's
    `personas` are left out: with a second wording the first one would train.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    prompt = fields.text(next((name for name in PROMPTS if name in fields.record), PROMPTS[0]))
    target = fields.text(next((name for name in ANSWERS if name in fields.record), ANSWERS[0]))
    truth, rephrases = fields.maybe("ground_truth"), fields.first_texts(*REPHRASES)
    number = next((fields.value(name) for name in ("case_id", "id") if name in fields.record), None)
    source = None if number is None else f"case {number}"
    return [probed_edit(fields, options, prompt, target, truth, rephrases, source, LOCALITY, PORTABILITY)]
