"""How the adapters beside this file were made: `python -m tests.data.make DIRECTORY` at commit 149cf4d.

They are data and are never made anew: what a later version writes is no old adapter. Import names are today's; at that
commit `elder.state` was `elder.editors.base` and `elder.infra.tracking.elder_pyfunc` was `infra.elder_pyfunc`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import elder
from elder.base import Base
from elder.edit import Edit, Probe
from elder.hyper.trainer import make_trainer
from elder.infra.tracking.elder_pyfunc import save_model
from elder.registry import make_training
from tests.cluster.tiny import make_edits
from tests.golden.model import make_base
from tests.golden.streams import METHODS, TRAINING, answers_of, write_text

EDITS = make_edits(4)
PROMPTS = [text for edit in EDITS for text in (edit.prompt, edit.rephrases[1], edit.locality[0].prompt)]
SMALL: dict[str, dict[str, Any]] = {
    **{name: {**options, "layers": (1,)} for name, options in METHODS.items()},
    "elder": {**METHODS["elder"], "layers": (1, 2), "steps": 20, "lr": 2e-2, "experts": 4},
    "elder-plus": {**METHODS["elder-plus"], "layers": (2,), "steps": 20, "lr": 2e-2, "key_width": 8},
}


def small_base() -> Base:
    """The model that the adapters belong to: three blocks of width 16."""
    return make_base("llama", width=16, depth=3)


def main() -> None:
    """Make an adapter of every method, the trained editors of two of them, a logged model, and what all answered."""
    directory = Path(sys.argv[1]).resolve()
    os.chdir(directory)  # so that manifests name `text.txt` and `trained/mend`
    write_text(directory)
    base = small_base()
    said = {}
    for method, options in SMALL.items():
        if method in TRAINING:
            train(method, base, f"trained/{method}")
            options = {"trained": f"trained/{method}"}
        elif "text_tokens" in options:
            options = {**options, "text": "text.txt"}
        editor = elder.make_editor(method, base, **options)
        editor.edit(EDITS[:3])
        editor.edit(EDITS[3:])
        editor.save(f"adapters/{method}")
        said[method] = answers_of(editor, PROMPTS)
    Path("answers.json").write_text(json.dumps({"prompts": PROMPTS, "answers": said}, indent=1) + "\n")
    save_model(directory / "logged_model", directory / "adapters" / "memit", "m-0", "run-0")
    Path("adapter").unlink()  # a link that `save_model` leaves beside the model
    Path("text.txt").unlink()


def train(method: str, base: Base, directory: str) -> None:
    """Two steps of meta-training."""
    options = {**TRAINING[method], "layers": [1], "rank": 2, "blocks": 1, "lr": 0.1}
    trainer = make_trainer(method, base, make_training(method, options))
    facts: list[Edit] = [replace(e, locality=(*e.locality, Probe("Water has", "a"))) for e in EDITS]
    for _ in range(2):
        trainer.step(facts)
    trainer.save(directory)


if __name__ == "__main__":
    main()
