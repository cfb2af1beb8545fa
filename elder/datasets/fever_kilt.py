"""FEVER in the layout that editing papers share (KnowledgeEditor, MEND, MALMEN): KILT's records with paraphrases.

`input` is the claim, `output[0].answer` its label, `filtered_rephrases` other wordings. `prediction`, `alternatives`
and `logit` belong to a classifier that is not ours and are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping

from elder.datasets.fever import UNDECIDED, claim_edit
from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit

FIELDS = (frozenset({"input", "output"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one claim; none for a claim that is left undecided.

    Raises:
        DataError: Required fields are missing, or the label is neither SUPPORTS nor REFUTES.
    """
    claim, label = fields.text("input"), ""
    outputs = fields.value("output")
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping):
        inner = Fields(outputs[0], "output[0].")
        label = inner.text("answer")
        fields.problems += inner.problems
    else:
        fields.problems.append("field 'output' must be a list of objects with an 'answer'")
    rephrases = fields.texts("filtered_rephrases")
    return [] if label == UNDECIDED else [claim_edit(fields, claim, label, rephrases, options)]
