"""CounterFact in the original layout of ROME: a rewrite, paraphrases, and neighbours that must not change.

The reduced form that EasyEdit publishes is in `easyedit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit, Probe
from elder.subjects import find_subject

FIELDS = frozenset({"requested_rewrite"})


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one case.

    The prompt is the template with the subject filled in, and the subject is the one in that place. Of the two
    paraphrases the first trains and the second is held out. Locality probes are the neighbourhood prompts: other
    subjects of which the old answer is true, so that answer is theirs.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    case = Fields(record)
    rewrite = case.part("requested_rewrite")
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template and "{}" not in template:
        case.problems.append("field 'requested_rewrite.prompt' has no '{}' where the subject stands")
    target, truth = rewrite.part("target_new").text("str"), rewrite.part("target_true").text("str")
    neighbours = case.texts("neighborhood_prompts")[: options.locality_probes]
    rephrases = case.texts("paraphrase_prompts")
    case.raise_problems()
    prompt, at = template.replace("{}", subject), template.index("{}")
    return Edit(
        prompt=prompt,
        target=target,
        subject=subject,
        ground_truth=truth,
        rephrases=rephrases,
        locality=tuple(Probe(prompt, truth) for prompt in neighbours),
        subject_at=None if find_subject(prompt, subject) == (at, at + len(subject)) else at,
        source=f"counterfact case {record['case_id']}" if "case_id" in record else "counterfact",
    )
