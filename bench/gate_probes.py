"""Questions about the subjects of CounterFact edits, made of the templates of the file itself.

For every edit: another wording of its relation, other relations of its subject, its subject mentioned before another
question, and its subject's name grown longer. A question of another relation is taken from a relation of the same kind
of subject, so that it makes sense.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elder.edit import Edit

# Wikidata properties of people, of places and organisations that lie somewhere, and of works and products.
KINDS = (
    ("P103", "P140", "P1303", "P106", "P27", "P1412", "P20", "P19", "P937", "P413", "P641", "P101", "P108", "P39",
     "P463"),
    ("P17", "P30", "P131", "P36", "P37", "P190", "P276"),
    ("P127", "P159", "P740", "P136", "P264", "P495", "P178", "P176", "P364", "P407", "P449", "P138"),
)  # fmt: skip
PEOPLE = KINDS[0]
OFTEN = 3  # cases that use a template before it counts as a wording of its relation
ENDS = (". ", "? ", "! ", '" ', ") ")


@dataclass(frozen=True)
class Probes:
    """What is asked about one edit; each a list of prompts that may be empty."""

    held_out: list[str]
    other_wording: list[str]
    other_relation: list[str]
    mention: list[str]
    longer_name: list[str]
    neighbour: list[str]


class Templates:
    """The wordings of each relation in a file of CounterFact cases, commonest first."""

    def __init__(self, file: Path) -> None:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        self.cases = [json.loads(line) for line in content.splitlines()]
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for case in self.cases:
            asked = case["requested_rewrite"]
            counted[asked["relation_id"]][asked["prompt"]] += 1
            for text in case["paraphrase_prompts"]:
                counted[asked["relation_id"]][_bare(text, asked["subject"]).replace(asked["subject"], "{}")] += 1
        self.of = {
            relation: [text for text, count in found.most_common() if count >= OFTEN and "{}" in text]
            for relation, found in counted.items()
        }
        self.relation = {f"counterfact case {case['case_id']}": _relation(case) for case in self.cases}
        self.objects: dict[str, list[str]] = defaultdict(list)
        for case in self.cases:
            self.objects[_relation(case)].append(case["requested_rewrite"]["target_new"]["str"])

    def wordings(self, edit: Edit) -> list[str]:
        """The relation's wordings about the edit's subject that are neither its prompt nor its rephrases."""
        subject = str(edit.subject)
        used = {edit.prompt, *(_bare(text, subject) for text in edit.rephrases)}
        texts = (text.replace("{}", subject) for text in self.of.get(self._of(edit), ()))
        return [text for text in texts if text not in used]

    def probes(self, edit: Edit, seed: int) -> Probes:
        """What is asked about an edit; the seed and its case decide which."""
        rng, subject, relation = random.Random(f"{seed}/{edit.source}"), str(edit.subject), self._of(edit)
        kind = next((kind for kind in KINDS if relation in kind), ())
        others = [other for other in kind if other != relation and self.of.get(other)]
        wordings = self.wordings(edit)
        rng.shuffle(wordings)
        rng.shuffle(others)
        person = relation in PEOPLE and len(subject.split()) > 1
        near = [probe.prompt for probe in edit.locality]
        return Probes(
            list(edit.heldout_rephrases),
            wordings[:1],
            [self.of[other][0].replace("{}", subject) for other in others[:2]],
            [f"{subject} was mentioned. {near[0]}"] if near else [],
            [edit.prompt.replace(subject, f"{subject}son")] if person else [],
            near[:2],
        )

    def correction(self, edit: Edit, seed: int) -> Edit | None:
        """An edit that changes the fact once more, worded in another way; None where the file has no other wording."""
        rng = random.Random(f"{seed}/again/{edit.source}")
        wordings = self.wordings(edit)
        answers = sorted(set(self.objects[self._of(edit)]) - {edit.target, str(edit.ground_truth)})
        if not wordings or not answers:
            return None
        prompt, answer = rng.choice(wordings), rng.choice(answers)
        return Edit(prompt, answer, edit.subject, ground_truth=edit.ground_truth)

    def _of(self, edit: Edit) -> str:
        return self.relation[str(edit.source)]


def flat(probes: Sequence[Probes], kind: str) -> list[tuple[int, str]]:
    """The prompts of one kind, each with the number of its edit."""
    return [(number, text) for number, one in enumerate(probes) for text in getattr(one, kind)]


def _relation(case: dict[str, Any]) -> str:
    return str(case["requested_rewrite"]["relation_id"])


def _bare(text: str, subject: str) -> str:
    """A paraphrase prompt without the unrelated sentence before it."""
    at = text.rfind(subject)
    begin = max(text.rfind(end, 0, at) for end in ENDS)
    return text[begin + 2 :] if begin >= 0 else text
