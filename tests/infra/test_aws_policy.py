"""The bucket policy allows what the store does and nothing else: the requests are written down and compared."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest

from elder.infra.stores.open import probe_store
from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings

FOLDER = Path(__file__).parents[2] / "infra" / "aws"
NEEDS = {  # request of S3 -> the right that it needs, by Amazon's table of actions
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}


@pytest.fixture(scope="module")
def policy() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "bucket-policy.json").read_text(encoding="utf-8")))


@pytest.fixture
def requests(s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict]]:
    """Every request of a store that does all it can, with its parameters."""
    made: list[tuple[str, dict]] = []
    store = S3Store(f"s3://{bucket}/PREFIX", S3Settings(endpoint_url=s3_endpoint))
    events = store._connect().meta.events
    events.register("before-parameter-build.s3", lambda params, model, **_: made.append((model.name, dict(params))))
    probe_store(store)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (9 << 20))
    store.put("large", large)
    store.download("large", tmp_path / "copy")
    assert not store.create("large", b"")
    assert store.exists("large")
    assert store.list("") == ["large"]
    monkeypatch.setattr(S3Store, "_sentence", lambda *_: "broken on purpose")
    events.register("before-call.s3.UploadPart", _break)
    with pytest.raises(Exception, match=r"broken|part"):
        store.put("aborted", large)
    store.delete("large")
    return made


def _break(**_: Any) -> None:
    raise RuntimeError("the part is lost")


def statements(policy: dict[str, Any]) -> list[tuple[set[str], str]]:
    found = []
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        found.append(({actions} if isinstance(actions, str) else set(actions), statement["Resource"]))
    return found


def test_it_allows_exactly_what_the_store_does(policy: dict[str, Any], requests: list[tuple[str, dict]]) -> None:
    allowed = set().union(*(actions for actions, _ in statements(policy)))
    assert {NEEDS[name] for name, _ in requests} == allowed
    assert not any("*" in action for action in allowed)


def test_every_request_stays_below_the_prefix(policy: dict[str, Any], requests: list[tuple[str, dict]]) -> None:
    assert len(requests) > 15
    for name, parameters in requests:
        key = parameters["Prefix"] if name == "ListObjectsV2" else parameters["Key"]
        assert key.startswith("PREFIX/"), (name, key)
    resources = {action: resource for actions, resource in statements(policy) for action in actions}
    assert resources.pop("s3:ListBucket") == "arn:aws:s3:::BUCKET"
    assert set(resources.values()) == {"arn:aws:s3:::BUCKET/PREFIX/*"}
    (listing,) = (statement for statement in policy["Statement"] if statement["Action"] == "s3:ListBucket")
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "PREFIX/*"}}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_amazons_format_and_no_account(file: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["Version"] == "2012-10-17"
    assert all(
        set(item) <= {"Sid", "Effect", "Action", "Resource", "Condition", "Principal"} for item in document["Statement"]
    )
    assert not any(part.isdigit() and len(part) == 12 for part in file.read_text(encoding="utf-8").split(":"))


def test_moto_reads_the_policy(s3_endpoint: str, s3_access: None, policy: dict[str, Any]) -> None:
    """A server that checks the document as Amazon does: unknown words and forms are refused."""
    client = boto3.client("iam", endpoint_url=s3_endpoint, region_name="us-east-1")
    for file in ("bucket-policy.json", "autoscaler-policy.json"):
        text = (FOLDER / file).read_text(encoding="utf-8").replace("ACCOUNT", "123456789012")
        client.create_policy(PolicyName=uuid.uuid4().hex, PolicyDocument=text)
    broken = json.dumps(policy).replace('"Effect": "Allow"', '"Effect": "Maybe"')
    with pytest.raises(client.exceptions.MalformedPolicyDocumentException):
        client.create_policy(PolicyName=uuid.uuid4().hex, PolicyDocument=broken)
