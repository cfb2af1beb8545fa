#!/usr/bin/env bash
# Finding: after some 130 tables in one MLflow run, log_table raises JSONDecodeError and never works again in that run.
#
# Version:  mlflow 3.17.2 with a SQLite store, Python 3.11, default settings.
# Input:    log_table with a small table and a new artifact file each time, "tables/stage-0000/answers.json" and so on,
#           as a long run logs one table a stage.
# Expected: every table is logged, as every artifact is; or a limit that is documented and named by the error.
# Seen:     MLflow lists the tables of a run as JSON in the tag mlflow.loggedArtifacts and reads it back before it adds
#           one. A tag longer than 8,000 characters is cut off with a warning, so that what is read back is no JSON any
#           more. The call that cuts it succeeds; each one after it raises, one that adds rows to a table of before
#           too. Other artifacts of the run, and other runs, are not concerned.
# Output:   logged: 132 tables, then JSONDecodeError; tag: 8000 characters
#           again, new file: JSONDecodeError · again, first file: JSONDecodeError · log_dict: works
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q mlflow==3.17.2
cat > "$place/seen.py" <<'PYTHON'
import sys

import mlflow

here = sys.argv[1]
mlflow.set_tracking_uri(f"sqlite:///{here}/mlflow.db")
mlflow.create_experiment("tables", artifact_location=here)
mlflow.set_experiment("tables")


def outcome(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return type(error).__name__
    return "works"


def log(number):
    mlflow.log_table({"answer": ["x"]}, f"tables/stage-{number:04d}/answers.json")


with mlflow.start_run() as run:
    count, ended = 0, "works"
    while count < 300 and (ended := outcome(log, count)) == "works":
        count += 1
    again, first = outcome(log, 400), outcome(log, 0)
    other = outcome(mlflow.log_dict, {"a": 1}, "other.json")
tag = mlflow.get_run(run.info.run_id).data.tags["mlflow.loggedArtifacts"]
print("mlflow", mlflow.__version__)
print(f"logged: {count} tables, then {ended}; tag: {len(tag)} characters")
print(f"again, new file: {again} · again, first file: {first} · log_dict: {other}")
broken = {ended, again, first} == {"JSONDecodeError"}
sys.exit(0 if count == 132 and broken and other == "works" and len(tag) == 8000 else 1)
PYTHON
"$place/venv/bin/python" "$place/seen.py" "$place" 2> "$place/log" || { tail -5 "$place/log"; exit 1; }
