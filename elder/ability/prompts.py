"""From a record to what is asked: the prompts of Model-Editing-Hurt, word for word, its slip of the pen included.

Every function raises `ValueError` with a sentence about the record when a value is none of those that the task knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elder.ability.item import Item

Record = Mapping[str, Any]

ENTITIES = {"PER": "Person", "LOC": "Location", "ORG": "Organization", "MISC": "Miscellaneous"}
LETTERS = "ABCD"


def gsm8k(record: Record) -> list[Item]:
    """The reasoning is given up to its last step; the number is asked for."""
    reasoning, mark, number = _text(record, "answer").partition("#### ")
    if not mark or not number.strip():
        raise ValueError("field 'answer' must end in a line '#### NUMBER'")
    prompt = f"Q: {_text(record, 'question')} A:Let's think step by step. {reasoning} "
    return [Item(f"{prompt}Therefore, the answer (arabic numerals) is:", (number.strip(),))]


def rte(record: Record) -> list[Item]:
    """Label 0 is entailment, 1 is not."""
    prompt = f"{_text(record, 'sentence1')} entails the {_text(record, 'sentence2')}. True or False? answer:"
    return [_choice(prompt, (" True", " False"), _label(record, 2))]


def nq(record: Record) -> list[Item]:
    """The passage is the first of `output`, written by a model; it need not be right."""
    passages, answers = _texts(record, "output"), _texts(record, "answer")
    prompt = f"Refer to the passage below and answer the following question. Passage: {passages[0]} "
    return [Item(f"{prompt}Question: {_text(record, 'question')}", answers)]


def boolq(record: Record) -> list[Item]:
    """`answer` is true or false."""
    if not isinstance(record["answer"], bool):
        raise ValueError(f"field 'answer' must be true or false, found {record['answer']!r}")
    prompt = (
        "Please answer the given question based on the passage. The answer should be exact 'yes' or 'no'. "
        f"passage: {_text(record, 'passage')} question: {_text(record, 'question')}. answer:"
    )
    return [_choice(prompt, (" no", " yes"), int(record["answer"]))]


def mutual(record: Record) -> list[Item]:
    """Four replies to a dialogue; `answers` is the letter of the right one."""
    options, letter = _texts(record, "options"), record["answers"]
    if len(options) != len(LETTERS) or letter not in tuple(LETTERS):
        raise ValueError("expected four 'options', and one of the letters A to D in 'answers'")
    listed = "".join(f"({name}){text}" for name, text in zip(LETTERS, options, strict=True))
    prompt = f"Q: {_text(record, 'article')} Which choice is correct? Answer Chioces: {listed}"
    choices = tuple(f" {name}" for name in LETTERS)
    return [_choice(f"{prompt} A: Among A through D, the answer is", choices, LETTERS.index(letter))]


def samsum(record: Record) -> list[Item]:
    """A chat to be summed up."""
    return [Item(f"{_text(record, 'dialogue')}\nTL;DR:", (_text(record, "summary"),))]


def conll03(record: Record) -> list[Item]:
    """A sentence as words and tags (`B-PER`, `I-PER`, `O`); one item for each type of entity that is in it."""
    words, tags = _texts(record, "words"), _texts(record, "tags")
    sentence = "".join(word if word in (",", ".") else f" {word}" for word in words).strip()
    return [
        Item(f"Please identify {name} Entity from the given text. Text: {sentence} Entity:", found, group=kind)
        for kind, name in ENTITIES.items()
        if (found := _entities(words, tags, kind))
    ]


def sst2(record: Record) -> list[Item]:
    """Label 0 is negative, 1 is positive."""
    prompt = (
        "For each snippet of text,label the sentiment of the text as positive or negative."
        f"The answer should be exact 'positive' or 'negative'. text: {_text(record, 'sentence')} answer:"
    )
    return [_choice(prompt, (" negative", " positive"), _label(record, 2))]


# ---- parts -----------------------------------------------------------------------------------------------------------


def _choice(prompt: str, choices: tuple[str, ...], right: int) -> Item:
    return Item(prompt, (choices[right],), choices)


def _text(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field '{name}' must be a text that is not empty, found {value!r}")
    return value


def _texts(record: Record, name: str) -> tuple[str, ...]:
    value = record[name]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError(f"field '{name}' must be a list of texts, found {value!r}")
    return tuple(value)


def _label(record: Record, count: int) -> int:
    label = record["label"]
    if isinstance(label, bool) or label not in range(count):
        raise ValueError(f"field 'label' must be a number from 0 to {count - 1}, found {label!r}")
    return int(label)


def _entities(words: Sequence[str], tags: Sequence[str], kind: str) -> tuple[str, ...]:
    """The different entities of a type, in order; one goes on while the tags say `I-`."""
    found: list[list[str]] = []
    before = "O"
    for word, tag in zip(words, tags, strict=True):
        if tag == f"B-{kind}" or (tag == f"I-{kind}" and before not in (f"B-{kind}", f"I-{kind}")):
            found.append([word])
        elif tag == f"I-{kind}":
            found[-1].append(word)
        before = tag
    return tuple(dict.fromkeys(" ".join(parts) for parts in found))
