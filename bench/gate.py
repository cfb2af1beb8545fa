"""What elder-plus' gate lets in, what an edited model says, and whether corrections win, on cases of CounterFact.

    python bench/gate.py scope FILE MODEL --cases 600:700        shares of prompts in scope; nothing is trained
    python bench/gate.py answers FILE MODEL --cases 500:600      free generation after training
    python bench/gate.py corrections FILE MODEL --cases 500:520  each fact is edited, then corrected in another wording

FILE has cases in CounterFact's own layout. One row for each `--switch`, a list of options such as `ask_base=null` or
`distance=null,whole_words=false`; the first row is without any. docs/elder_plus.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this file's folder holds an `elder.py`, which is not the package of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import yaml

import elder
from bench.gate_probes import Probes, Templates, flat
from elder.base import Base
from elder.datasets.stream import validate_stream
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.tokens import decode, encode_prompt, pad_id, pad_left

KINDS = tuple(field.name for field in fields(Probes))
SAYS_NEW = ("held_out", "other_wording")
TOKENS = 8
ROWS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description="The gate of elder-plus on cases of CounterFact.")
    parser.add_argument("what", choices=("scope", "answers", "corrections"))
    parser.add_argument("file", type=Path)
    parser.add_argument("model")
    parser.add_argument("--cases", default="500:600", help="places of the cases in the file, BEGIN:END")
    parser.add_argument(
        "--switch", action="append", default=[], help="NAME=VALUE,... of editor options; may be repeated"
    )
    parser.add_argument("--batch", type=int, default=10, help="edits of a batch (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begin, end = (int(part) for part in args.cases.split(":"))
    edits = list(validate_stream(elder.load_edits("counterfact", path=args.file)[begin:end], "last_wins"))
    base, templates = elder.load_base(args.model), Templates(args.file)
    measure = {"scope": _scope, "answers": _answers, "corrections": _corrections}[args.what]
    for number, switch in enumerate(["", *args.switch]):
        options = {"terminator": "sentence", "batch_size": args.batch, "seed": args.seed, **_options(switch)}
        started = time.process_time()
        row = measure(base, templates, edits, options)
        if not number:
            print("| switch | " + " | ".join(row) + " | CPU s |\n|" + "---|" * (len(row) + 2))
        figures = " | ".join(f"{value:.3f}" for value in row.values())
        print(f"| {switch or 'none'} | {figures} | {time.process_time() - started:.0f} |", flush=True)
    return 0


def _options(switch: str) -> dict[str, Any]:
    pairs = (pair.partition("=") for pair in switch.split(",") if pair)
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _scope(base: Base, templates: Templates, edits: Sequence[Edit], options: dict[str, Any]) -> dict[str, float]:
    editor = make_editor("elder-plus", base, **{"steps": 1, "extra_steps": 0, "replay": 0, "prefixes": 2, **options})
    receipt = editor.edit(edits)
    probes = [templates.probes(edit, options["seed"]) for edit in edits]
    row = {}
    for kind in KINDS:
        asked = [text for _, text in flat(probes, kind)]
        row[kind] = sum(_inside(base, editor, asked)) / max(1, len(asked))
    return row | {name: receipt.notes[name] for name in ("answer_threshold", "answer_passing")}


def _answers(base: Base, templates: Templates, edits: Sequence[Edit], options: dict[str, Any]) -> dict[str, float]:
    editor = make_editor("elder-plus", base, **options)
    editor.edit(edits)
    probes = [templates.probes(edit, options["seed"]) for edit in edits]
    said = _said(base, editor, [edit.prompt for edit in edits])
    row = {"reliability": sum(_begins(text, edit.target) for text, edit in zip(said, edits, strict=True)) / len(edits)}
    for kind in KINDS:
        asked = flat(probes, kind)
        said = _said(base, editor, [text for _, text in asked])
        if kind in SAYS_NEW:
            right = [_begins(text, edits[number].target) for text, (number, _) in zip(said, asked, strict=True)]
        else:
            with editor.disabled():
                before = _said(base, editor, [text for _, text in asked])
            right = [one == other for one, other in zip(said, before, strict=True)]
        row[kind] = sum(right) / max(1, len(right))
    return row


def _corrections(base: Base, templates: Templates, edits: Sequence[Edit], options: dict[str, Any]) -> dict[str, float]:
    pairs = [(edit, again) for edit in edits if (again := templates.correction(edit, options["seed"])) is not None]
    editor = make_editor("elder-plus", base, **options)
    editor.edit([edit for edit, _ in pairs])
    receipt = editor.edit([again for _, again in pairs])
    row = {"facts": float(len(pairs)), "noted": sum(bool(outcome.note) for outcome in receipt.outcomes) / len(pairs)}
    for name, texts in (
        ("first_prompt", [edit.prompt for edit, _ in pairs]),
        ("first_rephrase", [edit.training_prompts[-1] for edit, _ in pairs]),
        ("own_prompt", [again.prompt for _, again in pairs]),
        ("held_out", [edit.heldout_rephrases[0] for edit, _ in pairs]),
    ):
        said = _said(base, editor, texts)
        row[f"{name}_new"] = sum(_begins(t, again.target) for t, (_, again) in zip(said, pairs, strict=True)) / len(
            pairs
        )
        row[f"{name}_stale"] = sum(_begins(t, edit.target) for t, (edit, _) in zip(said, pairs, strict=True)) / len(
            pairs
        )
    return row


def _begins(text: str, answer: str) -> bool:
    return text.strip().startswith(answer.strip())


def _inside(base: Base, editor: Any, texts: Sequence[str]) -> list[bool]:
    found: list[bool] = []
    for at in range(0, len(texts), ROWS):
        ids, mask, _ = _batch(base, texts[at : at + ROWS])
        found += editor.in_scope(ids, mask).tolist()
    return found


def _said(base: Base, editor: Any, texts: Sequence[str]) -> list[str]:
    said = []
    for at in range(0, len(texts), ROWS):
        ids, mask, _ = _batch(base, texts[at : at + ROWS])
        made = editor.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=pad_id(base.tokenizer),
        )
        said += [decode(base.tokenizer, row.tolist()) for row in made[:, ids.shape[1] :]]
    return said


def _batch(base: Base, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return pad_left([encode_prompt(base.texts, text) for text in texts], pad_id(base.tokenizer), "cpu")


if __name__ == "__main__":
    sys.exit(main())
