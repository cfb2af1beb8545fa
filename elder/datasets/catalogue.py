"""The datasets by name, and the layouts that each may have. Adding one means a line here.

Data only: the module of a layout is imported when a file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GEOGRAPHY = "geography"
GEOGRAPHY_CHAT = "geography:chat"
REPLACED = MappingProxyType({"countries": GEOGRAPHY_CHAT})
"""Name of an earlier version -> the data set that took its place."""

DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "jsonl": "your own edits, one JSON object a line (docs/data.md); .jsonl or .jsonl.gz",
        "world:small": "generated facts about 560 people, known to the model world:small; needs no file",
        "world:tiny": "generated facts about 110 people, known to the model world:tiny; needs no file",
        GEOGRAPHY: "capitals, currencies, languages, continents and borders of the world's countries; needs no file",
        GEOGRAPHY_CHAT: "the same facts, asked in the words of a chat; needs no file",
        "counterfact": "CounterFact: the original layout of ROME, or the reduced one of EasyEdit",
        "zsre": "zsRE: the layout of MEND, or the one of KnowEdit",
        "hallucination": "corrected sentences of biographies: the layout of WISE, or the one of KnowEdit",
        "temporal": "passages about new entities, in the layout of WISE",
        "knowedit": "KnowEdit's other parts (recent facts, counterfactuals), and EasyEdit's request form",
        "mquake": "MQuAKE: chains of rewrites, and questions of several hops as portability",
        "akew": "AKEW's unstructured edits: the question of a CounterFact or MQuAKE rewrite and a passage as answer",
        "unke": "UnKE: questions with long answers, and questions on their parts as portability",
        "rippleedits": "RippleEdits: a statement, and what follows from it or must stay",
        "wikibigedit": "WikiBigEdit: questions on changed facts of Wikidata (update, ans, rephrase, loc, mhop)",
        "ultraeditbench": "UltraEditBench: questions and answers in the fields of WikiBigEdit or EasyEdit",
        "fever": "FEVER: claims that are true or false; the task's own layout, or that of MEND and MALMEN",
        "scotus": "court opinions and their issue area, as GRACE uses them: text and label",
    }
)
"""Name of a source -> what it is, in one line. `hub:NAME` and the path of a file are sources too."""

LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "jsonl": "elder.datasets.jsonl",
        "mquake": "elder.datasets.mquake",
        "counterfact": "elder.datasets.counterfact",
        "mend": "elder.datasets.mend",
        "easyedit": "elder.datasets.easyedit",
        "wikibio": "elder.datasets.wikibio",
        "scotus": "elder.datasets.scotus",
        "fever": "elder.datasets.fever",
        "fever_kilt": "elder.datasets.fever_kilt",
        "rippleedits": "elder.datasets.rippleedits",
        "questions": "elder.datasets.questions",
        "akew": "elder.datasets.akew",
    }
)
"""Name of a layout -> its module. It has `FIELDS`, sets of which a record has all of one, and `build(fields, options)`,
the edits of a record (an empty list: it holds none). A file without a name of a dataset is tried in this order."""

LAYOUTS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "jsonl": ("jsonl",),
        "counterfact": ("counterfact", "easyedit"),
        "zsre": ("mend", "easyedit"),
        "hallucination": ("easyedit", "wikibio"),
        "temporal": ("easyedit",),
        "knowedit": ("easyedit", "wikibio"),
        "mquake": ("mquake",),
        "akew": ("akew",),
        "unke": ("questions",),
        "rippleedits": ("rippleedits",),
        "wikibigedit": ("questions",),
        "ultraeditbench": ("easyedit", "questions"),
        "scotus": ("scotus",),
        "fever": ("fever", "fever_kilt"),
    }
)
"""Name of a dataset -> the layouts in which its files come, tried in this order."""
