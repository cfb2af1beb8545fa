"""Runs a job on a Ray Train worker group. The one file that imports ray.train.

One TorchTrainer for the whole run: the base model is loaded once and stays. Ray starts the group again when a
worker dies; the stage loop then resumes from the last commit. Knows nothing of trackers and stages.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import get_device

import elder
from elder.device import backend_for, pick_device
from elder.errors import ConfigError, ElderError, UnreachableError
from elder.pipelines.cluster.cores import threads_each, usable_cores
from elder.pipelines.cluster.events import EventListener, EventSender, open_queue
from elder.pipelines.cluster.placement import PlacementWatch, end_controller
from elder.pipelines.cluster.ray_private import GroupWatch, NodeTorchConfig, QuietTrainer
from elder.pipelines.config.run import ClusterConfig
from elder.pipelines.config.sections import KEPT_BELOW
from elder.pipelines.run.broker import AGREEMENT_S
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import EventHandler, RunSpec, WorkersFailed
from elder.pipelines.run.takeover import OlderDriver, TakeoverWatch

DRIVER_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a config are relative to where the user is
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker, or the end, is noticed
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
WHOLE_BELOW = 1024  # under ZeRO-3, weights of at most so many elements (norms) stay whole: gathering them costs more
OBJECT_STORE_BYTES = 160 * 2**20  # of a cluster of our own: edits and adapters are small


def run_on_ray(job: RunSpec, report: EventHandler) -> None:
    """Bring the run to its last stage on `cluster.workers` Ray workers; events come as they happen.

    Raises:
        ElderError: As `pipelines.run.run_stages.run_stages`; or the same error came back.
        WorkersFailed: The workers failed more often than `cluster.max_failures`.
        UnreachableError: The Ray cluster cannot be reached, or was lost on the way.
        RunTakenOver: Another driver has been started.
    """
    cluster = job.config.cluster
    environment = worker_environment(cluster)
    with connection(cluster, environment, report) as environment_needed:
        mailbox = open_queue()
        name = f"{job.config.run_id}-{uuid.uuid4().hex[:8]}"  # a name used before would continue that run
        given = environment if environment_needed else {}
        with trainer_of(_train_function(job, mailbox), cluster, given, name, [GroupWatch(mailbox)]) as trainer:
            watch = PlacementWatch(mailbox, cluster, report, OlderDriver(job))
            with EventListener(mailbox, report), watch, TakeoverWatch(job, lambda: end_controller(mailbox)):
                failure = _fit(trainer)
            error = watch.error or _verdict(mailbox)
        if isinstance(error, ElderError):
            raise error
        if failure is not None or error is not None:
            reason = _explain(failure or error, cluster.max_failures)
            if error is not None:
                raise ElderError(reason) from error
            gone = isinstance(failure, ray.exceptions.RayActorError)
            raise (UnreachableError if gone else WorkersFailed)(reason) from failure


@contextmanager
def trainer_of(
    train: Callable[[], None],
    cluster: ClusterConfig,
    environment: Mapping[str, str],
    name: str,
    callbacks: Sequence[Any] = (),
) -> Iterator[QuietTrainer]:
    """What runs a function on every rank of a worker group; its own files are thrown away after the block."""
    storage = tempfile.mkdtemp(prefix="elder-train-")
    try:
        yield QuietTrainer(
            train,
            scaling_config=scaling_of(cluster),
            torch_config=NodeTorchConfig(backend=backend_for(cluster.gpus_per_worker)),
            run_config=RunConfig(  # type: ignore[call-arg]
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.max_failures),
                callbacks=list(callbacks),
                worker_runtime_env={"env_vars": dict(environment)} if environment else {},
            ),
        )
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def worker_environment(cluster: ClusterConfig) -> dict[str, str]:
    """Environment variables of every worker process."""
    # What a process begins with. Nobody knows here on which node it will be: unless the config gives a number,
    # a worker takes its share of its own node's cores when it knows who else is there (`make_runtime`).
    threads = str(cluster.threads_per_worker or 1)
    found = {
        **_code_path(),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    if not cluster.gpus_per_worker:
        found["DS_ACCELERATOR"] = "cpu"
    return found


def _code_path() -> dict[str, str]:
    """PYTHONPATH that leads to this code, which may be a checkout that is not installed.

    A submitted job has none: Ray unpacks its package on every node, in another place on each, and puts that first.
    """
    root = Path(elder.__file__).resolve().parent.parent
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and Path.cwd() == root:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))}


def threads_of(cluster: ClusterConfig, neighbours: int) -> int:
    """Threads of torch in this worker.

    Args:
        cluster: May say how many.
        neighbours: Workers on the node of this process, itself among them; they share its cores.
    """
    return cluster.threads_per_worker or threads_each(usable_cores(), neighbours)


@contextmanager
def connection(
    cluster: ClusterConfig, environment: dict[str, str], report: EventHandler, everywhere: bool = False
) -> Iterator[bool]:
    """A connection to the Ray cluster that the config names; one that was made here ends with the block.

    Args:
        cluster: Where, and what is needed there.
        environment: Of the processes of a cluster of our own.
        report: Receives a note when the cluster is too small as it is.
        everywhere: Give the environment to all processes of this driver on a cluster that is joined, too.

    Yields:
        Whether workers still need the environment given to them (not on a cluster of our own).
    """
    if ray.is_initialized():
        yield True
        return
    # A driver inside a Ray job, or a user who exported it, names the cluster in RAY_ADDRESS. Clusters that
    # merely run on this machine are left alone: they may belong to another run and end with it.
    joins = cluster.address not in ("auto", "local") or (cluster.address == "auto" and "RAY_ADDRESS" in os.environ)
    try:
        with _own_answer_to_sigterm():
            if joins:
                given = {"env_vars": not_given_yet(environment)} if everywhere else None
                ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=given)
                _check_resources(cluster, report)
            else:
                _start_cluster(cluster, environment)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UnreachableError(unreachable(cluster.address, error, os.environ)) from error
    try:
        yield joins
    finally:
        ray.shutdown()


@contextmanager
def _own_answer_to_sigterm() -> Iterator[None]:
    """After `ray.init` in the block SIGTERM does what it did before, if that was a function of Python.

    Ray puts two handlers of its own in this place. The one in C++ prints a stack trace and aborts the process three
    seconds later, whatever Python is doing then: a record that takes longer to close would stay open.
    """
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def unreachable(address: str, error: BaseException, environ: Mapping[str, str]) -> str:
    """What to do about a cluster that a driver cannot join: one paragraph after Ray's own first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if environ.get("RAY_AUTH_MODE") == "token":
        place = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if environ.get(name)), None)
        token = f"The token comes from {place or '~/.ray/auth_token'}: is it what `ray get-auth-token` prints there?"
    else:
        token = (
            "If it asks for a token, export RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) "
            "with what `ray get-auth-token` prints on its head"
        )
    return (
        f"the Ray cluster '{address}' cannot be reached: {said}\nIs the address right and the cluster up (ray status)? "
        "A driver joins at HOST:6379 from one of its nodes; from anywhere else use `elder submit --address "
        f"http://HOST:8265`. {token}"
    )


def not_given_yet(environment: dict[str, str]) -> dict[str, str]:
    """What a submitted job's environment does not set already: Ray refuses to set a variable twice."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    known = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in environment.items() if name not in known}


def _start_cluster(cluster: ClusterConfig, environment: dict[str, str]) -> None:
    """A cluster in processes of this one, which die with it. Workers share cores if there are too few."""
    ray.init(
        address="local",
        num_cpus=max(usable_cores(), math.ceil(cluster.workers * cluster.cpus_per_worker)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": environment},
    )
    gpus = _resources().get("GPU", 0.0)
    needed = cluster.workers * cluster.gpus_per_worker
    if needed > gpus:
        ray.shutdown()
        raise ConfigError(
            f"cluster.gpus_per_worker: {cluster.workers} workers need {needed:g} GPUs, this machine has {gpus:g}; "
            "take fewer workers, or gpus_per_worker=0 to run on the CPU"
        )


def _check_resources(cluster: ClusterConfig, report: EventHandler) -> None:
    """Say so when the cluster is too small as it is; it may be one that grows."""
    present = _resources()
    for name, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        needed = cluster.workers * each
        if needed > present.get(name, 0.0):
            text = f"the run needs {needed:g} {name}, the Ray cluster has {present.get(name, 0.0):g} now"
            report({"kind": "note", "text": f"{text}; waiting for it to grow"})


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def scaling_of(cluster: ClusterConfig) -> ScalingConfig:
    """How many workers, and what Ray reserves for each."""
    resources: dict[str, float] = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return ScalingConfig(
        num_workers=cluster.workers, use_gpu=cluster.gpus_per_worker > 0, resources_per_worker=resources
    )


def _fit(trainer: QuietTrainer) -> Exception | None:
    """Run to the end; a failure is returned, because the mailbox may know its reason better."""
    try:
        with driver_environment():
            trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
        return error
    except (KeyboardInterrupt, SystemExit):  # Ray's own answer to SIGTERM is SystemExit
        if trainer.controller is not None:
            with suppress(Exception):
                ray.get(trainer.controller.abort.remote(), timeout=3)
        raise
    return None


def _verdict(mailbox: Any) -> BaseException | None:
    """Why the run must stop, if a worker said so; None also when the actor is gone."""
    with suppress(ray.exceptions.RayError):
        return cast(BaseException | None, ray.get(mailbox.verdict.remote())[1])
    return None


@contextmanager
def driver_environment() -> Iterator[None]:
    """Settings that Ray Train reads from the driver's environment only."""
    before = {name: os.environ.get(name) for name in DRIVER_ENVIRONMENT}
    os.environ.update(DRIVER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _explain(failure: BaseException | None, max_failures: int) -> str:
    """The last failure in a few lines: which worker, what it said."""
    if isinstance(failure, ray.exceptions.RayActorError):
        return (
            "Ray Train's controller, which lives beside this driver, is gone; so is, most likely, the head of the Ray "
            f"cluster: {last_line(failure)}\ncommitted stages are kept: the same command resumes from them, on a new "
            "cluster too"
        )
    workers = getattr(failure, "worker_failures", None) or {}
    if not workers:
        return f"a worker failed, and failed again in the same way: {type(failure).__name__}: {failure}"
    lines = [f"  worker {rank}: {last_line(error)}" for rank, error in sorted(workers.items())]
    head = f"the workers failed more than {max_failures} times (cluster.max_failures); the last time:"
    return "\n".join([head, *lines, "committed stages are kept: the same command resumes from them"])


def last_line(error: BaseException) -> str:
    """The line of an error in which Ray says the most."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _train_function(job: RunSpec, mailbox: Any) -> Any:
    """The function that Ray Train runs on every rank; it carries the job with it."""

    def train() -> None:
        work(job, mailbox)

    return train


def work(job: RunSpec, mailbox: Any) -> None:
    """One rank: set the process up, run the stages, and sort errors into final ones and ones worth a new try."""
    if ray.get(mailbox.verdict.remote())[0]:
        return  # Ray started the group again, but the run is to stop
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    try:
        runtime = make_runtime(job, rank, size)
        run_stages(replace(job, local_rank=context.get_local_rank()), runtime, EventSender(mailbox))
    except ElderError as error:
        if not _agreed(mailbox, ray.get(mailbox.stop.remote(rank, _portable(error))), size):
            raise  # others still wait for this rank: only the end of the group frees them
    except Exception as error:
        ray.get(mailbox.fail.remote(rank, _portable(error), f"{type(error).__name__}: {last_line(error)}"))
        raise


def make_runtime(job: RunSpec, rank: int, size: int) -> Any:
    """The runtime of this rank: alone, data parallel or sharded."""
    import torch

    from elder.runtime import LocalRuntime

    cluster, model = job.config.cluster, job.config.model
    torch.set_num_threads(threads_of(cluster, ray.train.get_context().get_local_world_size()))
    device = get_device() if cluster.gpus_per_worker else pick_device("cpu" if model.device == "auto" else model.device)
    if job.sharding == "zero3":
        from elder.pipelines.cluster.deepspeed_runtime import DeepSpeedRuntime

        return DeepSpeedRuntime(device, persistence_threshold=WHOLE_BELOW, keep_below=KEPT_BELOW)
    if size == 1:
        return LocalRuntime(device)
    from elder.pipelines.cluster.deepspeed_runtime import DataParallelRuntime

    return DataParallelRuntime(device)


def _agreed(mailbox: Any, count: int, size: int) -> bool:
    """Whether all ranks say soon that the run must stop."""
    end = time.monotonic() + AGREEMENT_S
    while count < size and time.monotonic() < end:
        time.sleep(0.1)
        count = ray.get(mailbox.verdict.remote())[0]
    return count >= size


def _portable(error: BaseException) -> BaseException:
    """The error as it can travel: its traceback as a note; in plain words if it cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign class does when it is pickled
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(trace)
    return cast(BaseException, copy)
