"""The files for Kubernetes and Docker, which cannot be run here: held against everything that can be known."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from elder.infra.dev.swift_server import main as swift_main
from elder.jobs.main import cli
from elder.pipelines.config.run import RunConfig, load_config

ROOT = Path(__file__).parents[2]
KUBERAY, DOCKER = ROOT / "infra" / "kuberay", ROOT / "infra" / "docker"
SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN$|ACCESS_KEY")
RAY = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def clusters() -> list[Any]:
    """The cluster specs of both manifests."""
    (standing,) = documents(KUBERAY / "raycluster.yaml")
    _, job = documents(KUBERAY / "rayjob.yaml")
    assert (standing["kind"], job["kind"]) == ("RayCluster", "RayJob")
    assert standing["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    return [pytest.param(standing["spec"], id="cluster"), pytest.param(job["spec"]["rayClusterSpec"], id="job")]


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cluster["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return documents(KUBERAY / "rayjob.yaml")[1]["spec"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("cluster", clusters())
def test_versions_images_and_token(cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == RAY
    images = {container["image"] for pod in pods(cluster) for container in pod["containers"]}
    assert len(images) == 1
    assert f"-ray{RAY}-" in images.pop()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "elder-ray-token"}
    assert cluster["enableInTreeAutoscaling"]


@pytest.mark.parametrize("cluster", clusters())
def test_the_head_has_no_gpu_and_workers_come_and_go(cluster: dict[str, Any]) -> None:
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert group["maxReplicas"] > 0
    (worker,) = group["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert worker["resources"][kind]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("cluster", clusters())
def test_pods_are_bound_and_hold_no_secret(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["serviceAccountName"] == "elder"
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert not [entry for entry in container["env"] if SECRET_NAME.search(entry["name"])]
        assert all(list(source) == ["secretRef"] for source in container["envFrom"])
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == named


def test_the_job_has_the_standing_clusters_nodes(job: dict[str, Any]) -> None:
    """But for the config, which is mounted on its head."""
    own = copy.deepcopy(job["rayClusterSpec"])
    pod = own["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "config"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "config"]
    (standing,) = documents(KUBERAY / "raycluster.yaml")
    assert own == standing["spec"]


def test_the_job_ends_and_is_tried_again(job: dict[str, Any]) -> None:
    assert job["submissionMode"] == "K8sJobMode"
    assert job["shutdownAfterJobFinishes"]
    assert job["ttlSecondsAfterFinished"] > 0
    assert job["activeDeadlineSeconds"] > 0
    assert (job["backoffLimit"], job["submitterConfig"]["backoffLimit"]) == (2, 0)


def test_the_jobs_command_is_one_and_its_config_is_mounted_and_valid(job: dict[str, Any], tmp_path: Path) -> None:
    arguments = parsed(job["entrypoint"])
    assert arguments["run_id"], "a second try must continue the first"
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "config")
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "config")
    map_ = documents(KUBERAY / "rayjob.yaml")[0]
    assert (map_["kind"], map_["metadata"]["name"]) == ("ConfigMap", volume["configMap"]["name"])
    directory, _, file = arguments["config"].rpartition("/")
    assert directory == mount["mountPath"]
    (tmp_path / file).write_text(map_["data"][file])
    config = load_config(str(tmp_path / file))
    (worker,) = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert config.cluster.workers <= job["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert config.cluster.gpus_per_worker <= int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert config.cluster.cpus_per_worker <= int(worker["resources"]["limits"]["cpu"])


def parsed(command: str) -> dict[str, Any]:
    """The arguments of an `elder ...` line, read by elder's own command line."""
    program, verb, *arguments = shlex.split(command)
    assert program == "elder"
    context = click.Context(cli)
    found = cli.get_command(context, verb)
    assert found is not None, verb
    return dict(found.make_context(verb, arguments, parent=context).params)


def test_ports_are_open_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned_and_built_from_what_is_there(compose: dict[str, Any]) -> None:
    stages = dockerfile_stages()
    for name, service in compose["services"].items():
        assert re.search(r":\d+\.\d+", service["image"]), name
        if "build" in service:
            folder = (DOCKER / service["build"]["context"]).resolve()
            assert folder == ROOT
            assert (folder / service["build"]["dockerfile"]).is_file()
            assert service["build"]["target"] in stages
            assert service["build"].get("args", {}).get("RAY_VERSION", RAY) == RAY


def test_secrets_of_the_compose_file_come_from_the_environment(compose: dict[str, Any]) -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    example = dict(
        line.split("=", 1)
        for line in (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert set(re.findall(r"(?<!\$)\$\{(\w+):\?", text)) == set(example)
    assert set(example.values()) == {""}
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable):
                assert value == f"${{{variable}:?set it in .env}}", (name, variable)
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "infra/docker/.env" in ignored[ignored.index("!infra/**") :]
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_services_wait_for_what_they_need_and_say_when_they_are_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, wish in service.get("depends_on", {}).items():
            condition = wish["condition"]
            assert condition in ("service_healthy", "service_completed_successfully")
            assert condition != "service_healthy" or "healthcheck" in services[other], (name, other)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists(), volume
    assert services["mlflow"]["depends_on"].keys() == {"postgres", "bucket"}


def test_the_commands_of_the_services_are_ones(compose: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    services = compose["services"]
    python, dash, module, *arguments = services["s3"]["command"]
    assert (python, dash, module) == ("python", "-m", "elder.infra.dev.swift_server")
    with pytest.raises(SystemExit) as stop:  # its own parser takes all of them, as it did not end at one
        swift_main([*arguments, "--help"])
    assert stop.value.code == 0
    with pytest.raises(SystemExit):
        swift_main([*arguments, "--unknown"])
    assert "unrecognized arguments: --unknown\n" in capsys.readouterr().err

    import mlflow.cli
    import ray.scripts.scripts

    line = shlex.split(services["mlflow"]["command"][2])
    assert line[:3] == ["exec", "mlflow", "server"]
    known = {option for parameter in mlflow.cli.server.params for option in parameter.opts}
    assert {part for part in line if part.startswith("--")} <= known
    known = {option for parameter in ray.scripts.scripts.start.params for option in parameter.opts}
    for name in ("ray-head", "ray-worker"):
        assert services[name]["command"][:2] == ["ray", "start"]
        assert {part.split("=")[0] for part in services[name]["command"][2:]} <= known


def test_the_example_uses_the_services_by_their_names(compose: dict[str, Any]) -> None:
    config: RunConfig = load_config(str(DOCKER / "examples" / "compose_demo.yaml"))
    services = compose["services"]
    assert config.tracking.mlflow == "http://mlflow:5000"
    assert config.tracking.s3.endpoint_url == "http://s3:9000"
    assert "9000" in services["s3"]["command"]
    assert "mlflow:5000" in services["mlflow"]["command"][2].split("--allowed-hosts")[1]
    bucket = config.tracking.store.removeprefix("s3://").split("/")[0]
    assert f"Bucket='{bucket}'" in services["bucket"]["command"][2]
    assert f"s3://{bucket}/mlflow" in services["mlflow"]["command"][2]
    assert not config.tracking.store.startswith(f"s3://{bucket}/mlflow"), "MLflow has a prefix of its own"
    text = (DOCKER / "examples" / "compose_demo.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^#   docker compose .* exec ray-head (elder .*)$", text, re.MULTILINE)
    assert any(
        parsed(line)["config"] == f"{volume.split(':')[1]}/compose_demo.yaml"
        for volume in services["ray-head"]["volumes"]
    )


def dockerfile_stages() -> dict[str, list[str]]:
    """Stage -> its instructions, continued lines joined."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages: dict[str, list[str]] = {"": []}
    for line in text.splitlines():
        if line.startswith("FROM"):
            stages[line.split(" AS ")[1]] = [line]
        elif line and not line.startswith("#"):
            list(stages.values())[-1].append(line)
    return stages


def test_the_image_is_pinned_not_root_and_made_of_what_is_there() -> None:
    stages = dockerfile_stages()
    assert f"ARG RAY_VERSION={RAY}" in stages.pop("")
    assert set(stages) == {"services", "node"}
    assert stages["node"][0].startswith("FROM rayproject/ray:${RAY_VERSION}-py311-${PLATFORM} ")
    assert re.match(r"FROM python:3\.11\.\d+-slim-\w+ ", stages["services"][0])
    for lines in stages.values():
        users = [line.split()[1] for line in lines if line.startswith("USER")]
        assert users[-1] != "root"
        assert not [line for line in lines if line.startswith(("ENV", "ARG")) and SECRET_NAME.search(line)]
        copied = [part for line in lines if line.startswith("COPY") for part in line.split()[1:-1]]
        sources = [part for part in copied if not part.startswith("--")]
        assert {"elder", "pipelines", "infra", "jobs", "configs", "requirements.lock"} <= set(sources)
        assert all((ROOT / source).exists() for source in sources)
        shown = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8")
        assert all(f"!{source}" in shown for source in sources)
