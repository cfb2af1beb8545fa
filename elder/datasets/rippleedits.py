"""RippleEdits: a statement of the new fact, and what follows from it or must stay, by criteria."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

from elder.datasets.fields import Fields, LayoutOptions, first_text
from elder.datasets.probes import kept
from elder.edit import Edit, Probe

FIELDS = (frozenset({"edit", "Relation_Specificity"}), frozenset({"edit", "Logical_Generalization"}))

LOCALITY = ("Relation_Specificity", "Forgetfulness")
PORTABILITY = ("Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II")
COPULA = re.compile(r"(?= (is followed by|follows|is|are) )")


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one record; it names no subject, for the record has none but its Wikidata id.

    The statement is cut after its last verb that it shares with the original one. Of the aliases of an answer
    the first is taken; queries without an answer are left out.

    Raises:
        DataError: Required fields are missing or of the wrong type, or the statement has none of the verbs.
    """
    fact = fields.part("edit")
    statement = fact.text("prompt")
    former = fact.part("original_fact").text("prompt") if fact.value("original_fact") else None
    prompt, target = _cut(statement, former)
    if statement and not target:
        fields.problems.append(f"field 'edit.prompt' has no answer after is, are or follows: '{statement[:80]}'")
    locality = [probe for name in LOCALITY for probe in _queries(fields, name)]
    portability = tuple(probe for name in PORTABILITY for probe in _queries(fields, name))
    locality = list(kept(fields, locality, options))
    fields.raise_problems()
    truth = former[len(prompt) :].strip().removesuffix(".") if former and former.startswith(prompt) else None
    return [
        Edit(
            prompt=prompt,
            target=target,
            ground_truth=truth or None,
            locality=tuple(locality),
            portability=portability,
            source="rippleedits",
        )
    ]


def _cut(statement: str, former: str | None) -> tuple[str, str]:
    """Prompt and answer of a statement; the answer is empty when there is no place to cut."""
    statement = statement.removesuffix(".")
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(statement, former or statement, strict=False))
    shared = "".join(sign for sign, _ in alike)
    ends = [match.start() + 1 + len(match.group(1)) for match in COPULA.finditer(shared)]
    cut = max(ends, default=len(statement))
    return statement[:cut].strip(), statement[cut:].strip()


def _queries(fields: Fields, name: str) -> Iterator[Probe]:
    """The queries of a criterion. Whether one or all of a test must hold is not kept: each is a probe."""
    for test in fields.parts(name) if fields.value(name) else []:
        for query in test.parts("test_queries") if test.value("test_queries") else []:
            answers = query.value("answers") or []
            said = first_text([one.get("value") for one in answers if isinstance(one, dict)])
            if said and said.strip():
                yield Probe(query.text("prompt"), said.strip())
            else:
                fields.left_out.append(f"{name} with an empty answer")
