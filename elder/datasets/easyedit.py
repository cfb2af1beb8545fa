"""The family of layouts around EasyEdit: `prompt` and `target_new`, probes flat or in named groups.

It covers EasyEdit's reduced CounterFact, WISE's hallucination and temporal sets (flat `locality_prompt`),
and KnowEdit (groups under `locality` and `portability`, answers as lists of aliases).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions, one_hop, probe_groups
from elder.edit import Edit, Probe

FIELDS = frozenset({"prompt", "target_new"})


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one record. A single rephrase is held out; of several, the first half trains.

    Of the aliases of an answer the first is taken. WISE's `ood_rephrase` is left out: it is a passage that
    contains its own answer, not another wording of the prompt.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    fields = Fields(record)
    prompt, target = fields.text("prompt"), fields.text("target_new")
    subject, truth = fields.maybe("subject"), fields.maybe("ground_truth")
    rephrases = fields.texts("rephrase_prompt") or fields.texts("rephrase")
    flat, flat_answer = fields.maybe("locality_prompt"), fields.maybe("locality_ground_truth")
    fields.raise_problems()
    locality = (Probe(flat, flat_answer),) if flat else ()
    return Edit(
        prompt=prompt,
        target=target,
        # A subject that is not part of the prompt cannot be found there: WISE's are titles of passages.
        subject=subject,
        ground_truth=truth,
        rephrases=rephrases,
        locality=(locality + probe_groups(record.get("locality")))[: options.locality_probes],
        portability=probe_groups(record.get("portability")) + one_hop(record.get("portability")),
        source=f"case {record['case_id']}" if "case_id" in record else None,
    )
