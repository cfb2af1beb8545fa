"""The family of layouts around EasyEdit: `prompt` and `target_new`, probes flat or in named groups.

It covers EasyEdit's reduced CounterFact and its request form, WISE's hallucination and temporal sets (flat
`locality_prompt`), and KnowEdit (groups under `locality` and `portability`, answers as lists of aliases).
"""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import probed_edit
from elder.edit import Edit

FIELDS = (frozenset({"prompt", "target_new"}),)
LOCALITY = (("locality_prompt", "locality_ground_truth"),)
PORTABILITY = (("portability_prompt", "portability_ground_truth"),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one record. A single rephrase is held out; of several, the first half trains.

    Of the aliases of an answer the first is taken. A subject that does not stand in the prompt is kept and cannot be
    found there: WISE's are titles of passages. WISE's `ood_rephrase` is left out: it is a passage that
    contains its own answer, not another wording of the prompt.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    prompt, target = fields.text("prompt"), fields.text("target_new")
    truth, rephrases = fields.maybe("ground_truth"), fields.first_texts("rephrase_prompt", "rephrase")
    source = f"case {fields.value('case_id')}" if "case_id" in fields.record else None
    return [probed_edit(fields, options, prompt, target, truth, rephrases, source, LOCALITY, PORTABILITY)]
