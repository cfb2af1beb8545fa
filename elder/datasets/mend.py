"""zsRE in the layout of MEND: a question, a rephrased one, the true and an alternative answer.

In the variant of 10,000 training records that EasyEdit publishes there is no field `answers` and `alt` is
the true answer. KnowEdit's form of zsRE is in `easyedit`.
"""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import flat_probes, kept, probe_groups
from elder.edit import Edit

FIELDS = (frozenset({"src", "alt"}),)


def build(question: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one question.

    `options.target` chooses between the counterfactual `alt` (the true answer is then the ground truth)
    and the true answer (the ground truth is then what MEND's model had predicted). The one rephrase is
    held out; of several, the first half trains. The locality probe is the unrelated question.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    prompt = question.text("src")
    if "answers" not in question.record:
        target, truth = question.text("alt"), None
    elif options.target == "alt":  # a few records of MEND have an empty one
        target = question.text("alt")
        if question.problems[-1:] == ["field 'alt' is empty"]:
            question.problems[-1] += ": remove the record, or take the true answers (target: answer)"
        truth = question.maybe("answers")
    else:
        target, truth = question.text("answers"), question.maybe("pred")
    locality = flat_probes(question, "loc", "loc_ans") + probe_groups(question, "locality")
    locality = kept(question, locality, options)
    portability = probe_groups(question, "portability", answered=True)
    rephrases = question.texts("rephrase")
    subject, number = question.maybe("subject"), question.value("case_id")
    question.raise_problems()
    return [
        Edit(
            prompt=prompt,
            target=target,
            subject=subject,
            ground_truth=truth,
            rephrases=rephrases,
            locality=locality,
            portability=portability,
            source=f"zsre case {number}" if "case_id" in question.record else "zsre",
        )
    ]
