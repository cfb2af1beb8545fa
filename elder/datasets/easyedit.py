"""The family of layouts around EasyEdit: `prompt` and `target_new`, probes flat or in named groups.

It covers EasyEdit's reduced CounterFact and its request form, WISE's hallucination and temporal sets (flat
`locality_prompt`), and KnowEdit (groups under `locality` and `portability`, answers as lists of aliases).
"""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import flat_probes, kept, probe_groups
from elder.edit import Edit

FIELDS = (frozenset({"prompt", "target_new"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one record. A single rephrase is held out; of several, the first half trains.

    Of the aliases of an answer the first is taken. WISE's `ood_rephrase` is left out: it is a passage that
    contains its own answer, not another wording of the prompt.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    prompt, target = fields.text("prompt"), fields.text("target_new")
    subject, truth = fields.maybe("subject"), fields.maybe("ground_truth")
    rephrases = fields.first_texts("rephrase_prompt", "rephrase")
    locality = flat_probes(fields, "locality_prompt", "locality_ground_truth") + probe_groups(fields, "locality")
    portability = flat_probes(fields, "portability_prompt", "portability_ground_truth", answered=True)
    portability += probe_groups(fields, "portability", answered=True)
    locality = kept(fields, locality, options)
    number = fields.value("case_id")
    fields.raise_problems()
    return [
        Edit(
            prompt=prompt,
            target=target,
            # A subject that is not part of the prompt cannot be found there: WISE's are titles of passages.
            subject=subject,
            ground_truth=truth,
            rephrases=rephrases,
            locality=locality,
            portability=portability,
            source=None if "case_id" not in fields.record else f"case {number}",
        )
    ]
