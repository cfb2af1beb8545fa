"""CounterFact in the original layout of ROME: a rewrite, paraphrases, and neighbours that must not change.

The reduced form that EasyEdit publishes is in `easyedit`.
"""

from __future__ import annotations

from dataclasses import replace

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import kept
from elder.edit import Edit, Probe
from elder.subjects import find_subject

FIELDS = (frozenset({"requested_rewrite"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one case.

    The prompt is the template with the subject filled in, and the subject is the one in that place. Of the two
    paraphrases the first trains and the second is held out. Locality probes are the neighbourhood prompts: other
    subjects of which the old answer is true, so that answer is theirs.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    edit = rewrite_edit(fields.part("requested_rewrite"))
    neighbours = [Probe(text, edit.ground_truth) for text in fields.texts("neighborhood_prompts")]
    rephrases = fields.texts("paraphrase_prompts")
    locality = kept(fields, neighbours, options)
    number = fields.value("case_id")
    fields.raise_problems()
    source = f"counterfact case {number}" if "case_id" in fields.record else "counterfact"
    return [replace(edit, rephrases=rephrases, locality=locality, source=source)]


def rewrite_edit(rewrite: Fields) -> Edit:
    """The edit of a rewrite: {prompt with `{}`, subject, target_new, target_true}, without its probes."""
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if template and "{}" not in template:
        rewrite.problems.append(f"field '{rewrite.within}prompt' has no '{{}}' where the subject stands")
    target, truth = rewrite.part("target_new").text("str"), rewrite.part("target_true").text("str")
    prompt, at = template.replace("{}", subject), max(template.find("{}"), 0)  # without a place it is refused
    found = find_subject(prompt, subject)
    return Edit(
        prompt=prompt,
        target=target,
        subject=subject,
        ground_truth=truth,
        subject_at=None if found == (at, at + len(subject)) else at,
    )
