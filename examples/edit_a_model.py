"""Change five facts in a small model, ask it, save the adapter, load it again: `python examples/edit_a_model.py`.

Needs the library alone. The base model belongs to a generated world of people with homes, jobs and employers. It is
trained on this machine when it is first asked for, in a minute or so, and kept in ELDER_HOME (`~/.cache/elder`).
"""

from __future__ import annotations

import os
import tempfile

import elder


def main() -> None:
    """Edit, ask, switch the edits off, save, load."""
    base = elder.load_base("world:tiny", device="cpu", cache_dir=os.environ.get("ELDER_HOME"))
    editor = elder.make_editor("elder-plus", base, terminator="sentence")  # these answers end with a full stop

    # Facts of your own: elder.Edit("PROMPT", "NEW ANSWER", subject="WHO"), or a file of JSON lines (docs/data.md).
    # Which prompts an edit is meant for is learnt from the edits themselves: four are the least for that.
    edits = elder.load_edits("world:tiny", limit=5)
    receipt = editor.edit(edits)
    print(f"learnt {len(receipt.outcomes)} facts in {receipt.seconds:.1f} s\n")

    for edit in edits[:3]:
        questions = {
            "the prompt": edit.prompt,
            "other words": edit.heldout_rephrases[0],  # no training has seen them
            "a neighbour": edit.locality[0].prompt,  # another fact, to be left alone
        }
        with editor.without_edits():
            before = editor.ask(list(questions.values()))
        after = editor.ask(list(questions.values()))
        for (kind, prompt), old, new in zip(questions.items(), before, after, strict=True):
            print(f"{kind:<12} {prompt} ...\n{'':<12}   {old}  ->  {new}")
        print()

    with tempfile.TemporaryDirectory() as adapter:
        editor.save(adapter)
        size = sum(os.path.getsize(os.path.join(adapter, name)) for name in os.listdir(adapter))
        edited = elder.load_edited(adapter, base=base)  # on another machine: base="world:tiny"
        print(f"saved and loaded {size / 2**10:.0f} KiB: {edited}")
    answer = edited.ask(edits[0].prompt)
    print(f"asked again it says '{answer.text}', by edit {answer.edit} (score {answer.score:.3f})")
    print(f"the base model is as it was: {edited.base_digest() == base.digest}")


if __name__ == "__main__":
    main()
