#!/usr/bin/env bash
# Finding: days in JSON lines load as times, and what that does to a second file depends on the order of the files.
#
# Version:  datasets 5.2.0, pyarrow 25.0.1, Python 3.11.
# Input:    two files of JSON lines with one string field "target". The first one's targets are days ("1999-05-04"), the
#           second one's are names ("Oslo").
# Expected: strings, as JSON says.
# Seen:     the first file alone yields datetime objects, so that str() of one is "1999-05-04 00:00:00". Both files
#           together do not load: the second is read with the type of the first. In the other order they load, and the
#           day has got an hour that nobody wrote: it was read as a time and written as a string again.
# Output:   days: [datetime.datetime(1999, 5, 4, 0, 0)]
#           days, names: DatasetGenerationError
#           names, days: ['Oslo', '1999-05-04 00:00:00']
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q datasets==5.2.0 pyarrow==25.0.1
cat > "$place/seen.py" <<'PYTHON'
import datetime
import json
import sys
from pathlib import Path

import datasets

here = Path(sys.argv[1])
for name, target in (("days", "1999-05-04"), ("names", "Oslo")):
    (here / f"{name}.jsonl").write_text(json.dumps({"target": target}) + "\n")


def loaded(*names):
    files = [str(here / f"{name}.jsonl") for name in names]
    try:
        found = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(here / "cache"))
    except Exception as error:
        return type(error).__name__
    return list(found["target"])


seen = {order: loaded(*order) for order in (("days",), ("days", "names"), ("names", "days"))}
print("datasets", datasets.__version__)
for order, found in seen.items():
    print(f"{', '.join(order)}: {found}")
wanted = [[datetime.datetime(1999, 5, 4)], "DatasetGenerationError", ["Oslo", "1999-05-04 00:00:00"]]
sys.exit(0 if list(seen.values()) == wanted else 1)
PYTHON
HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$place/venv/bin/python" "$place/seen.py" "$place"
