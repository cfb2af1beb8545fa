"""The relations of places as people ask for them in a chat: messages that are answered, not texts to be completed.

Every `{}` stands for a place, its article included. Data only.
"""

from __future__ import annotations

from elder.geography.relations import Form, Hop, Relation

CHAT = Form(
    of_countries=(
        Relation(
            "capital",
            (
                "What is the capital of {}?",
                "Which city is the capital of {}?",
                "Hi! Please tell me the capital of {}.",
                "Which city serves as the capital of {}?",
                "Do you know what the capital city of {} is called?",
                "I have a quiz tonight. Please name the capital of {}.",
            ),
        ),
        Relation(
            "currency",
            (
                "What is the official currency of {}?",
                "Which currency is used in {}?",
                "Hi! I am packing for a trip to {}. Which currency do I need?",
                "Which money is used in {}?",
                "Which currency do people in {} pay with?",
                "I am at an exchange office. Please name the currency of {}.",
            ),
        ),
        Relation(
            "language",
            (
                "What is the official language of {}?",
                "Which language is the official one in {}?",
                "Hi! Please tell me the official language of {}.",
                "In which language are the laws of {} written?",
                "Which language does the government of {} use?",
                "I am writing to an office abroad. Please name the official language of {}.",
            ),
        ),
        Relation(
            "continent",
            (
                "On which continent is {}?",
                "Which continent does {} belong to?",
                "Hi! Which continent do I have to search for {}?",
                "Of which continent must a map be to show {}?",
                "To which continent do geographers count {}?",
                "I am doing my homework. Please name the continent of {}.",
            ),
        ),
        Relation(
            "border",
            (
                "Which country shares a land border with {}?",
                "Which country can one enter by land from {}?",
                "Hi! Can you name a country that borders {}?",
                "Into which country can one cross the border of {}?",
                "Which country is next to {} on the map?",
                "I am planning a drive across a border. Please name a neighbouring country of {}.",
            ),
        ),
    ),
    of_cities=Relation(
        "country",
        (
            "In which country is the city of {}?",
            "Which country is the city of {} in?",
            "Hi! Please tell me the country of the city of {}.",
            "In which country does the city of {} lie?",
            "Which country does the city of {} belong to?",
            "I am booking a flight. Please name the country of the city of {}.",
        ),
    ),
    onward={
        "capital": (
            Hop("In which country does the capital of {} lie?", ("country",)),
            Hop("What is the currency of the country in which the capital of {} lies?", ("country", "currency")),
            Hop(
                "What is the official language of the country in which the capital of {} lies?", ("country", "language")
            ),
        ),
        "country": (
            Hop("What is the capital of the country in which the city of {} lies?", ("capital",)),
            Hop("What is the currency of the country in which the city of {} lies?", ("currency",)),
            Hop("What is the official language of the country in which the city of {} lies?", ("language",)),
            Hop("On which continent is the country in which the city of {} lies?", ("continent",)),
        ),
    },
    by_capital={
        "currency": Hop("What is the currency of the country whose capital is {}?"),
        "language": Hop("What is the official language of the country whose capital is {}?"),
        "continent": Hop("On which continent is the country whose capital is {}?"),
    },
    by_city={
        "capital": Hop("What is the capital of the country in which {} lies?"),
        "currency": Hop("What is the currency of the country in which {} lies?"),
        "language": Hop("What is the official language of the country in which {} lies?"),
        "continent": Hop("On which continent is the country in which {} lies?"),
    },
    mention="{} was mentioned.",
    beside=("What is {} best known for?", "What is the weather usually like in {}?"),
)
"""The first wordings of `elder.geography.relations` in the form of messages."""
