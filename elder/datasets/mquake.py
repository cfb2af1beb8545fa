"""MQuAKE: a chain of rewrites a record, and questions of several hops whose answer follows from all of them."""

from __future__ import annotations

from dataclasses import replace

from elder.datasets.counterfact import rewrite_edit
from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit, Probe

FIELDS = (frozenset({"requested_rewrite", "questions"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edits of one record, in its order; the question of a rewrite is its rephrase.

    The questions are portability of the last edit: their answer is right once all rewrites are made. Of the
    aliases of the answer the first is taken.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    number = fields.value("case_id")
    source = f"mquake case {number}" if "case_id" in fields.record else "mquake"
    edits = [
        replace(rewrite_edit(rewrite), rephrases=rewrite.texts("question"), source=source)
        for rewrite in fields.parts("requested_rewrite")
    ]
    questions, answer = fields.texts("questions"), fields.text("new_answer")
    fields.raise_problems()
    portability = tuple(Probe(question, answer) for question in questions)
    return [*edits[:-1], replace(edits[-1], portability=portability)]
