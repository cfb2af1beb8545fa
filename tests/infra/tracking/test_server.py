"""Real MLflow servers that keep artifacts in S3: passed on (the client needs no S3 access), and directly."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import pytest

import elder
from elder.base import Editor
from elder.errors import AdapterError, InputError, UnreachableError
from elder.infra.doctor.checks import check
from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings
from elder.infra.tracking.elder_pyfunc import MAX_NEW_TOKENS, ElderModel
from elder.infra.tracking.tracker import Connection, MlflowTracker, pull, runs, show
from elder.jobs.main import main
from tests.cluster.tiny import make_edits, write_model
from tests.contracts.tracker import CONFIG, write_adapter
from tests.infra.servers import ACCESS, FaultyProxy, faulty_proxy
from tests.infra.tracking.test_elder_pyfunc import expected as answers
from tests.infra.tracking.test_read import resolve
from tests.jobs.conftest import build_model, records, write_jsonl

pytestmark = pytest.mark.cluster
EDITS = make_edits(2)
PROMPTS = [edit.prompt for edit in make_edits(4)]
LARGE = 300_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def editor(place: Path) -> Editor:
    """A tiny Llama with two edits; its adapter lies in `adapter/`."""
    editor = elder.make_editor("elder", elder.load_base(str(write_model(place / "base", "llama")), device="cpu"))
    editor.edit(EDITS)
    editor.save(place / "adapter")
    return editor


@pytest.fixture(autouse=True)
def no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client holds no credentials."""
    for name in (*ACCESS, "AWS_PROFILE", "AWS_DEFAULT_REGION", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def direct_access(s3_endpoint: str, no_access: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client of a server in direct mode needs."""
    for name, value in {**ACCESS, "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)


def log(server: str, run_id: str, adapter: Path) -> MlflowTracker:
    """Everything is said twice, the second time by a driver that was started again."""
    model_ids = set()
    for _ in range(2):
        tracker = MlflowTracker(server, "round trip")
        tracker.start(run_id, "round trip", CONFIG, {})
        tracker.log_metrics({"reliability.generate": 1.0}, 2)
        tracker.log_table("per_edit", [{"edit_id": "x"}])
        model_ids.add(tracker.log_adapter(0, adapter, {"reliability.generate": 1.0}, 2))
        assert tracker.register(min(model_ids), run_id, "champion", {"who": "me"}) == 1
        tracker.finish("FINISHED")
    assert len(model_ids) == 1
    return tracker


def pulled_and_answering(server: str, name: str, editor: Editor, place: Path, tmp_path: Path) -> None:
    """Every form of reference gives the same files, and MLflow's loader answers as the edited model does."""
    weights = (place / "adapter" / "adapter.safetensors").read_bytes()
    refs = (name, f"runs:/{name}", f"runs:/{name}/stage-0000", f"models:/{name}/1", f"models:/{name}@champion")
    for number, ref in enumerate(refs):
        directory = pull(ref, tmp_path / f"pulled-{number}", server)
        assert (directory / "adapter.safetensors").read_bytes() == weights
    expected = ElderModel(place / "adapter").predict(PROMPTS)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert loaded.predict(PROMPTS) == expected == ElderModel(tmp_path / "pulled-4").predict(PROMPTS)
    with editor.disabled():  # the edits make a difference
        assert answers(editor, PROMPTS, MAX_NEW_TOKENS) != expected


def test_artifacts_passed_on_by_the_server(
    proxied_mlflow: str,
    editor: Editor,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    tracker = log(proxied_mlflow, "passed", place / "adapter")
    assert tracker.url() == show(proxied_mlflow, "passed")["url"]
    assert [row["stages"] for row in runs(proxied_mlflow, experiment="round trip") if row["run_id"] == "passed"] == [1]
    assert resolve("models:/passed@champion", proxied_mlflow).artifact_location.startswith("mlflow-artifacts:/")
    pull("passed", tmp_path / "silent", proxied_mlflow)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxied_mlflow)
    pulled_and_answering(proxied_mlflow, "passed", editor, place, tmp_path)


def test_artifacts_in_direct_mode(
    direct_mlflow: str,
    direct_access: None,
    editor: Editor,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log(direct_mlflow, "direct", place / "adapter")
    assert resolve("models:/direct@champion", direct_mlflow).artifact_location.startswith("s3://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct_mlflow)
    pulled_and_answering(direct_mlflow, "direct", editor, place, tmp_path)


def test_direct_mode_without_credentials_is_explained(direct_mlflow: str, place: Path, editor: Editor) -> None:
    tracker = MlflowTracker(direct_mlflow, "no access")
    with pytest.raises(UnreachableError, match=r"direct mode.*AWS_ACCESS_KEY_ID.*MLFLOW_S3_ENDPOINT_URL.*none of them"):
        tracker.start("no-access", "x", CONFIG, {})


def test_a_refused_login_is_explained_without_the_secret(
    proxied_mlflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-secret")
    with faulty_proxy(proxied_mlflow) as proxy:
        mlflow_at = Connection(proxy.url)
        for status in ("401", "403"):
            proxy.faults = [status]
            with pytest.raises(UnreachableError, match=rf"refuses us \({status}\).*MLFLOW_TRACKING_TOKEN") as refused:
                mlflow_at.call("search_experiments")
            assert "hunter2" not in str(refused.value)
            assert "now set: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD" in str(refused.value)


@pytest.fixture(scope="module")
def large(proxied_mlflow: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of several hundred kB, logged in run `large`."""
    adapter = write_adapter(tmp_path_factory.mktemp("large") / "adapter", bytes(range(250)) * (LARGE // 250))
    tracker = MlflowTracker(proxied_mlflow, "cut")
    tracker.start("large", "cut", CONFIG, {})
    tracker.log_adapter(0, adapter, {}, 10)
    return adapter


def asked_for(proxy: FaultyProxy, file: str) -> list[str]:
    return [text for text in proxy.asked if f"/data/adapter/{file}" in text]


def test_a_connection_that_breaks_is_made_again(proxied_mlflow: str, large: Path, tmp_path: Path) -> None:
    """This server ignores ranges and sends the whole file again, which must not end up behind the first half."""
    with faulty_proxy(proxied_mlflow) as proxy:
        proxy.cut_larger_than = LARGE // 8
        proxy.faults = ["cut large"] * 3
        pull("large", tmp_path / "pulled", proxy.url)
        assert proxy.faults == []
        assert len(asked_for(proxy, "adapter.safetensors")) == 4
        assert sum("bytes=" in text for text in proxy.asked) == 3
    assert (tmp_path / "pulled" / "adapter.safetensors").read_bytes() == (large / "adapter.safetensors").read_bytes()


def test_a_server_that_goes_away_leaves_what_the_next_pull_uses(
    proxied_mlflow: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elder.infra.tracking.connection.PAUSE_S", 0.0)
    monkeypatch.setattr("elder.infra.tracking.connection.CONTINUATIONS", 1)
    with faulty_proxy(proxied_mlflow) as proxy:
        proxy.cut_larger_than = LARGE // 8
        proxy.faults = ["cut large"] * 2
        with pytest.raises(UnreachableError, match=r"bytes are kept in .*the same command continues from there"):
            pull("large", tmp_path / "pulled", proxy.url)
        assert not (tmp_path / "pulled").exists()
        proxy.asked.clear()
        pull("large", tmp_path / "pulled", proxy.url)
        assert len(asked_for(proxy, "adapter.safetensors")) == 1
        assert asked_for(proxy, "manifest.json") == []  # it is there already
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]


def test_a_flipped_byte_on_the_server(proxied_mlflow: str, large: Path, s3_endpoint: str, tmp_path: Path) -> None:
    tracker = MlflowTracker(proxied_mlflow, "flipped")
    tracker.start("flipped", "x", CONFIG, {})
    tracker.log_adapter(0, large, {}, 10)
    key = resolve("flipped", proxied_mlflow).artifact_location.removeprefix("mlflow-artifacts:/")
    content = (large / "adapter.safetensors").read_bytes()
    artifacts = moto_bucket_of_artifacts(s3_endpoint)
    name = f"mlf/{key}/data/adapter/adapter.safetensors"
    (bucket,) = (found for found in artifacts if name in artifacts[found])
    client(s3_endpoint).put_object(Bucket=bucket, Key=name, Body=content[:-1] + b"x")
    with pytest.raises(AdapterError, match="another sha256"):
        pull("flipped", tmp_path / "pulled", proxied_mlflow)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_above_the_limit_stays_in_the_store(
    proxied_mlflow: str,
    s3_endpoint: str,
    bucket: str,
    editor: Editor,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow gets a manifest and a pointer; pull and the loader follow it, verified."""
    settings = {"endpoint_url": s3_endpoint, "profile": "mine"}
    store = S3Store(f"s3://{bucket}/runs/pointed/attempt", S3Settings(endpoint_url=s3_endpoint))
    for path in (place / "adapter").iterdir():
        store.put(path.name, path)
    tracker = MlflowTracker(proxied_mlflow, "pointed", limit_mb=0.001, s3=settings)
    tracker.start("pointed", "x", CONFIG, {})
    model = tracker.log_adapter(0, place / "adapter", {"reliability.generate": 1.0}, 2, store.uri)
    tracker.register(model, "pointed", "champion", {})
    found = resolve("models:/pointed@champion", proxied_mlflow)
    assert found.stored_at == store.uri
    files = Connection(proxied_mlflow).files(found.artifact_location, "data/adapter")
    assert sorted(files) == ["manifest.json", "pointer.json"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxied_mlflow)
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=r"the store that is configured here is none.*ELDER_STORE"):
        pull("pointed", tmp_path / "unasked", proxied_mlflow)
    with pytest.raises(InputError, match=r"configured here is s3://another-bucket"):
        pull("pointed", tmp_path / "unasked", proxied_mlflow, store="s3://another-bucket")
    with pytest.raises(InputError, match=rf"lies on the server {s3_endpoint}, and none is configured"):
        pull("pointed", tmp_path / "unasked", proxied_mlflow, store=f"s3://{bucket}")
    assert not (tmp_path / "unasked").exists()
    monkeypatch.setenv("ELDER_STORE", f"s3://{bucket}/runs")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    pulled_and_answering(proxied_mlflow, "pointed", editor, place, tmp_path)

    wrong = {"endpoint_url": "http://127.0.0.1:9", "attempts": 1}
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        pull("pointed", tmp_path / "elsewhere", proxied_mlflow, s3=wrong)
    store.put("adapter.safetensors", b"damaged")
    with pytest.raises(AdapterError, match="another sha256"):
        pull("pointed", tmp_path / "damaged", proxied_mlflow)
    assert not (tmp_path / "damaged").exists()


def test_a_whole_run_whose_adapters_stay_in_the_store(
    proxied_mlflow: str,
    s3_endpoint: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Through the command line: edit, show, promote, pull, evaluate; then MLflow's own loader."""
    for name, value in {**ACCESS, "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_TRACKING_URI": proxied_mlflow}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model, edits = build_model(tmp_path / "model", "llama"), write_jsonl(tmp_path / "edits.jsonl", records(8))
    config = [
        *("demo", f"model.source={model}", "data.source=jsonl", f"data.path={edits}", "data.edits=null"),
        *("stream.stage_size=4", "stream.batch_size=2", "editor={method: elder, steps: 2, layers: [2, 3], rank: 2}"),
        *(
            "evaluation.max_new_tokens=4",
            "cluster.workers=0",
            "cluster.sharding=none",
            f"tracking.store=s3://{bucket}/e",
        ),
        *(f"tracking.s3.endpoint_url={s3_endpoint}", f"tracking.mlflow={proxied_mlflow}", "tracking.mlflow_limit_mb=0"),
        *("tracking.register=whole", "tracking.alias=candidate"),
    ]
    run = ("run_id=whole-1", "--json", "result.json")
    for command in (
        ("edit", *config, *run),
        ("show", "whole-1"),
        ("promote", "models:/whole@candidate", "--alias", "champion"),
        ("pull", "models:/whole@champion", "adapter", "--store", f"s3://{bucket}/e", "--s3-endpoint", s3_endpoint),
        ("evaluate", "models:/whole@champion", *config, "--json", "evaluated.json"),
    ):
        assert main(list(command)) == 0, capfd.readouterr().err
    assert resolve("models:/whole@champion", proxied_mlflow).stored_at is not None
    result, again = (json.loads(Path(name).read_text()) for name in ("result.json", "evaluated.json"))
    assert json.loads(Path("adapter/manifest.json").read_text())["state_digest"] == result["adapter"]["digest"]
    assert again["metrics"]["locality.forced"] == pytest.approx(result["final"]["locality.forced"], abs=1e-9)
    prompts = [str(row["prompt"]) for row in records(8)]
    monkeypatch.setenv("ELDER_STORE", f"s3://{bucket}/e")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    loaded = mlflow.pyfunc.load_model("models:/whole@champion")
    assert loaded.predict(prompts) == ElderModel(Path("adapter")).predict(prompts)


def test_the_doctor_likes_it(proxied_mlflow: str, tmp_path: Path) -> None:
    found = {item.name: item for item in check(mlflow=proxied_mlflow, cache=tmp_path)}
    assert found["mlflow round trip"].ok, found["mlflow round trip"].detail


def client(endpoint: str):  # type: ignore[no-untyped-def]
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


def moto_bucket_of_artifacts(endpoint: str) -> dict[str, set[str]]:
    """All keys of the buckets that MLflow servers of this session use."""
    s3 = client(endpoint)
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"] if bucket["Name"].startswith("mlflow-")]
    pages = {name: s3.get_paginator("list_objects_v2").paginate(Bucket=name) for name in names}
    return {name: {item["Key"] for page in found for item in page.get("Contents", ())} for name, found in pages.items()}
