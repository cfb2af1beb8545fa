"""zsRE in the layout of MEND: a question, a rephrased one, the true and an alternative answer.

In the variant of 10,000 training records that EasyEdit publishes there is no field `answers` and `alt` is
the true answer. KnowEdit's form of zsRE is in `easyedit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions, one_hop
from elder.edit import Edit, Probe

FIELDS = frozenset({"src", "alt"})


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one question.

    `options.target` chooses between the counterfactual `alt` (the true answer is then the ground truth)
    and the true answer (the ground truth is then what MEND's model had predicted). The one rephrase is
    held out; of several, the first half trains. The locality probe is the unrelated question.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    question = Fields(record)
    prompt = question.text("src")
    if "answers" not in record:
        target, truth = question.text("alt"), None
    elif options.target == "alt":  # a few records of MEND have an empty one
        target = question.text("alt")
        if question.problems[-1:] == ["field 'alt' is empty"]:
            question.problems[-1] += ": remove the record, or take the true answers (target: answer)"
        truth = question.maybe("answers")
    else:
        target, truth = question.text("answers"), question.maybe("pred")
    loc, loc_answer = question.maybe("loc"), question.maybe("loc_ans")
    rephrases = question.texts("rephrase")
    subject = question.maybe("subject")
    question.raise_problems()
    return Edit(
        prompt=prompt,
        target=target,
        subject=subject,
        ground_truth=truth,
        rephrases=rephrases,
        locality=(Probe(loc, loc_answer),)[: options.locality_probes] if loc else (),
        portability=one_hop(record.get("portability")),
        source=f"zsre case {record['case_id']}" if "case_id" in record else "zsre",
    )
