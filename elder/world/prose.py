"""Generic English sentences, made from small word lists, so that a world model is not only a list of facts.

The sentences name no person of any world. They feed the tokenizer and a small share of the training text.
"""

from __future__ import annotations

import random

from elder.world.facts import words

PLACES = words("river market garden station harbour library kitchen forest bridge museum village school field street")
THINGS = words("book letter lamp boat basket window map coat bottle wheel picture stone clock ladder chair bell")
QUALITIES = words("old small quiet bright heavy strange green broken useful narrow warm early simple wooden cold new")
ACTIONS = words("carried found painted lost repaired bought sold opened forgot moved borrowed noticed cleaned kept")
PEOPLE = ("the farmer", "the visitor", "a neighbour", "the girl", "the boy", "an old friend", "my brother", "our guest")
TIMES = (
    "in the morning",
    "last year",
    "after the rain",
    "before dinner",
    "on Sunday",
    "at night",
    "in spring",
    "today",
)
FRAMES = (
    "{person} {action} the {quality} {thing} near the {place} {time}.",
    "There is a {quality} {thing} in the {place}, and nobody knows who left it there.",
    "When the weather is {quality}, people walk to the {place} and talk about the {thing}.",
    "It was said that the {thing} in the {place} had been {action} {time}.",
    "If you go to the {place} {time}, you will see that {person} has {action} a {thing}.",
    "What is the use of a {quality} {thing}? It can be {action} by anyone.",
    "We have not seen the {place} since {person} {action} it with a {quality} {thing}.",
    "Between the {place} and the river there are three {quality} houses and one {thing}.",
)


def sentences(count: int, rng: random.Random) -> list[str]:
    """Simple sentences of about 10 to 20 words.

    Args:
        count: How many.
        rng: Source of randomness; equal states give equal sentences.
    """
    made = []
    for _ in range(count):
        text = rng.choice(FRAMES).format(
            person=rng.choice(PEOPLE),
            action=rng.choice(ACTIONS),
            quality=rng.choice(QUALITIES),
            thing=rng.choice(THINGS),
            place=rng.choice(PLACES),
            time=rng.choice(TIMES),
        )
        made.append(text[0].upper() + text[1:])
    return made
