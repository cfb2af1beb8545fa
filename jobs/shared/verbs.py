"""The commands by purpose, in the order in which a user meets them."""

from __future__ import annotations

GROUPS = {
    "Edit and compare": {
        "demo": "the main job on embedded defaults, shown step by step",
        "edit": "run a lifelong edit stream from here",
        "train-editor": "train the network of MEND or MALMEN, checkpoint by checkpoint",
        "tune": "search for the best settings over edit runs",
        "compare": "the same edits under several methods, one table",
        "study": "many edit runs over batch sizes, blocks and strategies, one report",
        "evaluate": "measure a pulled or registered adapter again",
    },
    "Check before a run": {
        "validate": "check config and data, start nothing",
        "plan": "dry run: stages, memory per worker, keys to be written",
    },
    "Results and adapters": {
        "runs": "the runs that MLflow knows",
        "show": "one run, or one registered model with the history of its aliases",
        "pull": "fetch an adapter into a directory",
        "export": "merge a weight editor's adapter into an ordinary model directory",
        "promote": "point an alias at a stage whose gates hold; who, when, why are kept",
        "rollback": "point an alias back at an earlier version",
    },
    "Names and configs": {
        "models": "base models by name: list them, fetch one",
        "ls": "what there is: methods, datasets, configs, every config key",
        "cp": "copy a packaged config to a file of your own",
    },
    "Ray cluster": {
        "submit": "send edit, train-editor, tune or evaluate to a Ray cluster as a job",
        "jobs": "the jobs of a Ray cluster",
        "status": "status of a submitted run: its Ray job and the last committed stage",
        "logs": "the log of a job, -f follows it",
        "stop": "end a job; what is committed stays",
    },
    "Services": {
        "up": "start an S3 server and an MLflow server on this machine, for development",
        "down": "end those servers again",
        "doctor": "check this machine, the store and MLflow: each line ok or a remedy",
    },
}
VERBS = {verb: summary for verbs in GROUPS.values() for verb, summary in verbs.items()}
