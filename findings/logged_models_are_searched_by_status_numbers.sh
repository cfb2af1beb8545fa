#!/usr/bin/env bash
# Finding: search_logged_models(filter_string="status = 'READY'") finds no model that is READY; "status = 2" finds them.
#
# Version:  mlflow 3.17.2 with a SQLite store, Python 3.11.
# Input:    one logged model that has been finalized as READY, with the metric acc logged three times: 1.0 at step 0,
#           5.0 at step 10 and, last, 3.0 at step 5.
# Expected: the status is searched by the name under which the model shows it, or the name is refused; a metric of a
#           model is what a run's is, one value, that of the highest step.
# Seen:     the name of a status matches nothing, without an error, and "status != 'READY'" matches the model that is
#           READY; the number of the status in the protocol matches. The model's metrics are all three values, in the
#           order of logging, while the run's is the one of step 10. A search takes any of them: "acc > 4" and
#           "acc < 4" both find the model.
# Output:   shown: READY
#           status = 'READY': [] · status != 'READY': ['m'] · status = 2: ['m']
#           run: 5.0 · model: [1.0, 5.0, 3.0]
#           metrics.acc > 4: ['m'] · metrics.acc < 4: ['m']
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
experiment = mlflow.create_experiment("models", artifact_location=here)
mlflow.set_experiment("models")
model = mlflow.initialize_logged_model(name="m")
mlflow.finalize_logged_model(model.model_id, "READY")
with mlflow.start_run() as run:
    for value, step in ((1.0, 0), (5.0, 10), (3.0, 5)):
        mlflow.log_metric("acc", value, step=step, model_id=model.model_id)


def found(condition):
    models = mlflow.search_logged_models(experiment_ids=[experiment], filter_string=condition, output_format="list")
    return [model.name for model in models]


shown = mlflow.get_logged_model(model.model_id)
by_status = [found(c) for c in ("status = 'READY'", "status != 'READY'", "status = 2")]
of_run = mlflow.get_run(run.info.run_id).data.metrics["acc"]
of_model = [metric.value for metric in shown.metrics]
by_metric = [found(c) for c in ("metrics.acc > 4", "metrics.acc < 4")]
print("mlflow", mlflow.__version__)
print("shown:", shown.status)
print(f"status = 'READY': {by_status[0]} · status != 'READY': {by_status[1]} · status = 2: {by_status[2]}")
print(f"run: {of_run} · model: {of_model}")
print(f"metrics.acc > 4: {by_metric[0]} · metrics.acc < 4: {by_metric[1]}")
same = by_status == [[], ["m"], ["m"]] and of_run == 5.0 and of_model == [1.0, 5.0, 3.0] and by_metric == [["m"], ["m"]]
sys.exit(0 if str(shown.status) == "READY" and same else 1)
PYTHON
"$place/venv/bin/python" "$place/seen.py" "$place" 2> "$place/log" || { tail -5 "$place/log"; exit 1; }
