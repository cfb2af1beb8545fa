"""AKEW's unstructured edits: the layouts of CounterFact and MQuAKE, each rewrite with a passage that tells the fact."""

from __future__ import annotations

from dataclasses import replace

from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit, Probe

FIELDS = (frozenset({"requested_rewrite"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edits of one record: the question of a rewrite -> the passage, a long answer.

    Portability are the facts that the passage tells, as far as the record lists them, and MQuAKE's questions.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    number = fields.value("case_id")
    several = isinstance(fields.value("requested_rewrite"), list)
    rewrites = fields.parts("requested_rewrite") if several else [fields.part("requested_rewrite")]
    edits = [
        Edit(
            prompt=rewrite.text("question"),
            target=rewrite.text("fact_new_uns"),
            subject=rewrite.maybe("subject"),
            portability=_told(rewrite),
            source=f"akew case {number}" if "case_id" in fields.record else "akew",
        )
        for rewrite in rewrites
    ]
    several_hops = _several_hops(fields)
    fields.raise_problems()
    return [*edits[:-1], replace(edits[-1], portability=edits[-1].portability + several_hops)]


def _several_hops(fields: Fields) -> tuple[Probe, ...]:
    """MQuAKE's questions, whose answer follows from all rewrites of the record."""
    questions = fields.texts("questions")
    answer = fields.text("new_answer") if questions else ""
    return tuple(Probe(question, answer) for question in questions)


def _told(rewrite: Fields) -> tuple[Probe, ...]:
    if not rewrite.value("unsfact_triplets_GPT"):
        return ()
    told = []
    for fact in rewrite.parts("unsfact_triplets_GPT"):
        subject, template, answer = fact.maybe("subject"), fact.maybe("prompt"), fact.maybe("target")
        if subject and template and answer:
            told.append(Probe(template.replace("{}", subject).rstrip(), answer))
        else:
            rewrite.left_out.append("unsfact_triplets_GPT without subject, prompt or target")
    return tuple(told)
