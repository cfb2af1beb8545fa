"""FEVER: a claim that is true or false, in the layout of the task itself (claim, label, paraphrases if there are any).

The papers edit a classifier (BERT, one logit). A causal language model has no such head, so a claim becomes a prompt
that ends in "This claim is", and its label the word that follows. The other published layout is in `fever_kilt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit

FIELDS = (frozenset({"claim", "label"}),)

PROMPT = "Claim: {claim} This claim is"
ANSWERS: Mapping[str, str] = MappingProxyType({"SUPPORTS": "true", "REFUTES": "false"})
UNDECIDED = "NOT ENOUGH INFO"


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one claim; none for a claim that the task leaves undecided, which is no binary fact.

    `options.target` chooses between the label itself (`answer`) and the other one (`alt`, the default).

    Raises:
        DataError: Required fields are missing, or the label is none of FEVER's.
    """
    claim, label = fields.text("claim"), fields.text("label")
    rephrases = fields.first_texts("paraphrases", "rephrases")
    if label == UNDECIDED:
        return []
    return [claim_edit(fields, claim, label, rephrases, options)]


def claim_edit(fields: Fields, claim: str, label: str, rephrases: Sequence[str], options: LayoutOptions) -> Edit:
    """An edit from the parts of a claim.

    Raises:
        DataError: As collected in `fields`, and a label that is neither SUPPORTS nor REFUTES.
    """
    if label and label not in ANSWERS:
        fields.problems.append(f"the label must be one of {', '.join(ANSWERS)}, found '{label}'")
    number = fields.value("id")
    fields.raise_problems()
    truth = ANSWERS[label]
    other = next(word for word in ANSWERS.values() if word != truth)
    return Edit(
        prompt=PROMPT.format(claim=claim),
        target=truth if options.target == "answer" else other,
        ground_truth=truth,
        rephrases=tuple(PROMPT.format(claim=text.strip()) for text in rephrases if text.strip() != claim),
        source="fever" if number is None else f"fever claim {number}",
    )
