"""The forms in which published sets write probes: flat fields, and named groups, with and without answers.

A probe that cannot be used is a problem or is counted as left out; none goes without a word. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions, first_text, no_text
from elder.edit import Edit, Probe

ANSWERS = ("ground_truth", "answer")
ONE_HOP = ("New Question", "New Answer")
EMPTY: tuple[Any, ...] = (None, "", [], {})

Pairs = Sequence[tuple[str, str]]
"""Pairs of fields: prompts, and their answers."""


def probe_groups(fields: Fields, name: str, answered: bool = False) -> tuple[Probe, ...]:
    """The probes of a field: name of a group -> its probes; or the probes of one group without a name.

    Probes are one object {prompt, ground_truth} or a list of them (KnowEdit), an object with lists (EasyEdit's
    requests), or texts without answers. The groups take turns, so that a limit keeps some of each.

    Args:
        fields: The record.
        name: Its field.
        answered: Every probe needs an answer.
    """
    value = fields.value(name)
    if value in EMPTY:
        return ()
    where = f"{fields.within}{name}"
    if isinstance(value, Mapping) and "prompt" not in value:
        hop = ONE_HOP[0] in value  # then the texts beside the groups belong to it
        named = {group: items for group, items in value.items() if not (hop and isinstance(items, str))}
        groups = [_group(fields, f"{where}.{group}", items, answered) for group, items in named.items()]
        groups += [_one_hop(fields, where, value)] if hop else []
    else:
        groups = [_group(fields, where, value, answered)]
    longest = max(map(len, groups), default=0)
    turns = (group[index] for index in range(longest) for group in groups if index < len(group))
    return tuple(probe for probe in turns if probe is not None)


def flat_probes(fields: Fields, prompt: str, answer: str, answered: bool = False) -> tuple[Probe, ...]:
    """The probes of a pair of fields: text and answer, or lists of both. An empty answer is none."""
    prompts, answers = fields.value(prompt), fields.value(answer)
    if prompts in EMPTY:
        return ()
    where = f"{fields.within}{prompt}"
    if answers in EMPTY or (isinstance(answers, str) and not answers.strip()):
        answers = None
        if answered:
            fields.left_out.append(f"{where} without an answer ({fields.within}{answer})")
            return ()
    found = _pairs(fields, where, prompts, answers, answered)
    return tuple(Probe(probe.prompt.strip(), probe.answer) for probe in found if probe is not None)


def kept(fields: Fields, probes: Sequence[Probe], options: LayoutOptions) -> tuple[Probe, ...]:
    """The first locality probes, at most so many as the options say; the others are counted."""
    most = options.locality_probes
    if most is not None:
        fields.left_out += [f"locality beyond the first {most} of an edit (locality_probes)"] * (len(probes) - most)
    return tuple(probes[:most])


def probed_edit(
    fields: Fields,
    options: LayoutOptions,
    prompt: str,
    target: str,
    ground_truth: str | None,
    rephrases: tuple[str, ...],
    source: str | None,
    locality: Pairs,
    portability: Pairs,
) -> Edit:
    """The edit of a record, with its subject and its probes: those of pairs of fields, then those of groups.

    Args:
        fields: The record; nothing else of it is read afterwards.
        options: How many locality probes are kept.
        prompt: Of the edit, as are `target`, `ground_truth`, `rephrases` and `source`.
        target: See `prompt`.
        ground_truth: See `prompt`.
        rephrases: See `prompt`.
        source: See `prompt`.
        locality: Names of the fields that hold prompts and answers.
        portability: The same.

    Raises:
        DataError: Fields are missing or of the wrong type.
    """
    subject = fields.maybe("subject")
    local = [probe for names in locality for probe in flat_probes(fields, *names)]
    implied = [probe for names in portability for probe in flat_probes(fields, *names, answered=True)]
    kept_locality = kept(fields, [*local, *probe_groups(fields, "locality")], options)
    implied += probe_groups(fields, "portability", answered=True)
    fields.raise_problems()
    return Edit(
        prompt=prompt,
        target=target,
        subject=subject,
        ground_truth=ground_truth,
        rephrases=rephrases,
        locality=kept_locality,
        portability=tuple(implied),
        source=source,
    )


def _group(fields: Fields, where: str, items: Any, answered: bool) -> list[Probe | None]:
    """The probes of one group; None where one is left out, so that turns stay as they are."""
    found: list[Probe | None] = []
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, Mapping):
            found += _object(fields, where, item, answered)
        elif isinstance(item, str) and item.strip():
            found += _pairs(fields, where, item, None, answered)
        elif item not in EMPTY:
            fields.problems.append(
                f'field \'{where}\' must hold probes such as {{"prompt": ..., "ground_truth": ...}}, '
                f"found {type(item).__name__}"
            )
    return found


def _object(fields: Fields, where: str, item: Mapping[str, Any], answered: bool) -> list[Probe | None]:
    name = next((name for name in ANSWERS if item.get(name) is not None), None)
    fields.left_out += [f"{where}.{key}" for key in item if key not in ("prompt", *ANSWERS) and item[key] not in EMPTY]
    if item.get("prompt") in EMPTY:
        fields.left_out.append(f"{where} without a prompt")
        return [None]
    return _pairs(fields, where, item["prompt"], None if name is None else item[name], answered)


def _pairs(fields: Fields, where: str, prompts: Any, answers: Any, answered: bool) -> list[Probe | None]:
    """Probes of one prompt with its answer (of several aliases the first), or of a list of both."""
    if not isinstance(prompts, list) or len(prompts) == 1:
        return [_probe(fields, where, prompts, answers, answered)]
    if answers is None:
        return [_probe(fields, where, prompt, None, answered) for prompt in prompts]
    if not isinstance(answers, list) or len(answers) != len(prompts):
        count = len(answers) if isinstance(answers, list) else "one"
        fields.problems.append(f"field '{where}' has {len(prompts)} prompts but {count} answers; give one for each")
        return []
    return [_probe(fields, where, *pair, answered) for pair in zip(prompts, answers, strict=True)]


def _probe(fields: Fields, where: str, prompt: Any, answer: Any, answered: bool) -> Probe | None:
    text, said = first_text(prompt), None if answer is None else first_text(answer)
    if text is None and prompt not in EMPTY:
        fields.problems.append(f"field '{where}': a prompt {no_text(prompt)}")
    elif text is None or not text.strip():
        fields.left_out.append(f"{where} without a prompt")
    elif answer is None and answered:
        fields.problems.append(f"field '{where}' has a probe without an answer (ground_truth); give it, or remove it")
    elif answer is None:
        return Probe(text.rstrip())
    elif said is not None and said.strip():
        return Probe(text.rstrip(), said.strip())
    elif said is None and not isinstance(answer, list):
        fields.problems.append(f"field '{where}': an answer {no_text(answer)}")
    else:
        fields.left_out.append(f"{where} with an empty answer")
    return None


def _one_hop(fields: Fields, where: str, value: Mapping[str, Any]) -> list[Probe | None]:
    """The probe of EasyEdit's form of portability: {"New Question", "New Answer"}."""
    question, answer = (first_text(value.get(name)) for name in ONE_HOP)
    fields.left_out += [f"{where}.{key}" for key, item in value.items() if key not in ONE_HOP and isinstance(item, str)]
    if question and answer and answer.strip():
        return [Probe(question.rstrip(), answer.strip())]
    fields.left_out.append(f"{where} with an empty answer")
    return [None]
