"""zsRE in the layout of MEND: a question, a rephrased one, the true and an alternative answer.

In the variant of 10,000 training records that EasyEdit publishes there is no field `answers` and `alt` is
the true answer. KnowEdit's form of zsRE is in `easyedit`.
"""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import probed_edit
from elder.edit import Edit

FIELDS = (frozenset({"src", "alt"}),)
LOCALITY = (("loc", "loc_ans"),)


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
    source = f"zsre case {question.value('case_id')}" if "case_id" in question.record else "zsre"
    rephrases = question.texts("rephrase")
    return [probed_edit(question, options, prompt, target, truth, rephrases, source, LOCALITY, ())]
