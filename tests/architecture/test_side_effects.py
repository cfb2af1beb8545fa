"""Importing is free: no module changes the process, and the doors of the house open fast."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.architecture.sources import ROOT, modules

PROBE = """
import importlib, json, logging, os, random, signal, sys, threading, warnings
import numpy, torch, transformers  # what libraries do to the process is theirs: they go first
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
import ray, deepspeed, matplotlib, mlflow, boto3, click, rich
import rich.live, rich.progress, rich.table, rich.console, rich.text
import ray.train, ray.train.torch, datasets, mlflow.pyfunc, mlflow.tracking, pandas
try:
    import lm_eval.api.model  # optional; sets a variable of the hub's client
except ImportError:
    pass

def state():
    return {
        "environ": dict(os.environ),
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "root handlers": [str(h) for h in logging.getLogger().handlers],
        "root level": logging.getLogger().level,
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "alive": sorted(t.name for t in threading.enumerate()),
        "warnings": str(warnings.filters),
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "ray": ray.is_initialized(),
    }

def difference(old, new):
    if isinstance(old, dict):
        return {key: [old.get(key), new.get(key)] for key in {*old, *new} if old.get(key) != new.get(key)}
    return [str(old)[-300:], str(new)[-300:]]

found = {}
for name in json.loads(sys.argv[1]):
    before = state()
    importlib.import_module(name)
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    if changed:
        found[name] = {key: difference(before[key], after[key]) for key in changed}
print("RESULT" + json.dumps(found))
"""


def dotted() -> list[str]:
    """All modules of the house by dotted name, but for `__main__` files."""
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules()]
    return [name for name in names if not name.endswith("__main__")]


def test_importing_any_module_changes_nothing() -> None:
    command = [sys.executable, "-c", PROBE, json.dumps(dotted())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.split("RESULT")[1]) == {}


def imported_by(code: str) -> set[str]:
    """Top-level modules that a snippet brings in."""
    tail = ";import sys;print('RESULT', *sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + tail], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split("RESULT")[1].split())


def test_importing_elder_is_light() -> None:
    heavy = {"torch", "transformers", "ray", "mlflow", "boto3", "deepspeed", "datasets", "matplotlib"}
    assert imported_by("import elder") & heavy == set()


def test_the_protocol_of_editors_needs_no_models() -> None:
    """Preflight, planning and the driver import it; the class of models takes seconds."""
    assert "transformers" not in imported_by("import elder.base")


def test_elder_itself_never_brings_ray_or_mlflow() -> None:
    library = [name for name in dotted() if name.split(".")[0] == "elder"]
    code = "import importlib\nfor n in " + repr(library) + ": importlib.import_module(n)\nimport elder"
    # boto3 may come with transformers' own optional parts; that we do not import it is checked on the source
    assert imported_by(code) & {"ray", "mlflow", "infra", "pipelines", "jobs"} == set()


def test_help_is_instant_and_light() -> None:
    begin = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "elder.jobs.main", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begin
    assert done.returncode == 0
    assert "edit" in done.stdout
    names = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert names & {"torch", "transformers", "ray", "mlflow", "boto3", "deepspeed", "rich", "numpy", "yaml"} == set()
    assert took < 3, "0.1 s alone; more than 3 s even on a busy machine means that something heavy is imported"
