#!/usr/bin/env bash
# Finding: one list in a column of JSON lines, and datasets parses the column's strings as JSON once more.
#
# Version:  datasets 5.2.0, pyarrow 25.0.1, Python 3.11.
# Input:    JSON lines whose field "answer" is a string in every row but one, which holds a list (several accepted
#           answers, as question answering data has it).
# Expected: rows as they stand in the file, or an error about mixed types, as earlier releases gave.
# Seen:     the column gets the type Json, and every string that happens to be JSON is read as such: "007" becomes the
#           number 7, "1.0" a float, "true" a bool, "null" None, '{"k": 1}' a dict. "plain" stays. Without the list, or
#           with the list in another column, all strings are kept.
# Output:   without a list: ['007', '1.0', 'true', 'null', '{"k": 1}', 'plain']
#           with a list:    [7, 1.0, True, None, {'k': 1}, 'plain', ['x', 'y']]
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q datasets==5.2.0 pyarrow==25.0.1
cat > "$place/seen.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets

here = Path(sys.argv[1])
strings = ["007", "1.0", "true", "null", '{"k": 1}', "plain"]


def loaded(name, answers):
    file = here / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    found = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(here / "cache"))
    return list(found["answer"])


plain, mixed = loaded("plain", strings), loaded("mixed", [*strings, ["x", "y"]])
print("datasets", datasets.__version__)
print("without a list:", plain)
print("with a list:   ", mixed)
rewritten = [7, 1.0, True, None, {"k": 1}, "plain", ["x", "y"]]
sys.exit(0 if plain == strings and mixed == rewritten and type(mixed[0]) is int else 1)
PYTHON
HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$place/venv/bin/python" "$place/seen.py" "$place"
