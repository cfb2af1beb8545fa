"""Secrets in texts: which are taken out, and what is left alone."""

from __future__ import annotations

import time

import pytest

from elder.errors import AdapterError, ConfigError
from elder.redact import has_login, redact, redacted

HIDDEN = {
    "https://u:pw@host/x": "https://***@host/x",
    "see s3://key:s3cr3t@bucket/p and http://me@h:5000": "see s3://***@bucket/p and http://***@h:5000",
    "https://u:p@ss@host/": "https://***@host/",
    "https://u:p/w@host/x": "https://***@host/x",
    "GET /x?token=abc&n=1": "GET /x?token=***&n=1",
    "url?X-Amz-Signature=abc&X-Amz-Credential=def": "url?X-Amz-Signature=***&X-Amz-Credential=***",
    "AWS_SECRET_ACCESS_KEY=abc/def": "AWS_SECRET_ACCESS_KEY=***",
    '{"password": "hunter2", "user": "me"}': '{"password": "***", "user": "me"}',
    "{'MLFLOW_TRACKING_PASSWORD': 'hunter2'}": "{'MLFLOW_TRACKING_PASSWORD': '***'}",
    "Authorization: Bearer abcdefghijk": "Authorization: Bearer ***",
}
SEEN = (
    "https://host:8080/path@v1", "models:/facts@champion", "s3://bucket/prefix", "file:///tmp/x", "me@example.org",
    "editor.fact_token: 'x' is not one of last", "editor.fact_token=last", "export RAY_AUTH_TOKEN instead",
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on the workers too)", "subject_tokens=8", "a basic question",
    "export RAY_AUTH_TOKEN=TOKEN, or export RAY_AUTH_TOKEN_PATH=FILE, or write it",
)  # fmt: skip


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_are_taken_out(text: str) -> None:
    assert redact(text) == redact(redact(text)) == HIDDEN[text]


@pytest.mark.parametrize("text", SEEN)
def test_other_texts_are_left_alone(text: str) -> None:
    assert redact(text) == text
    assert not has_login(text)


def test_known_secrets_are_taken_out_wherever_they_are() -> None:
    assert redact("it says hunter2!", ["hunter2"]) == "it says ***!"
    assert redact("a short one", ["a"]) == "a short one"


def test_records_are_redacted_as_a_whole() -> None:
    record = {"source": "https://u:pw@h/x", "list": ["s3://k:s@b", 3, None], "number": 1.5}
    assert redacted(record) == {"source": "https://***@h/x", "list": ["s3://***@b", 3, None], "number": 1.5}


def test_no_error_holds_a_login_or_what_cannot_be_printed() -> None:
    error = ConfigError(["data.source: 'https://u:hunter2@h' is no dataset", "half: \ud83d"])
    assert "hunter2" not in f"{error} {error.problems} {error!r}"
    assert error.problems[1] == "half: \\ud83d"
    assert str(AdapterError("s3://k:hunter2@b is away")) == "s3://***@b is away"


@pytest.mark.parametrize("piece", ["a", "://a:b", "secret", "@", "a@"])
def test_the_time_grows_with_the_length_of_a_text_and_not_with_its_square(piece: str) -> None:
    def seconds(length: int) -> float:
        begun = time.process_time()
        redact("://" + piece * (length // len(piece)))
        return time.process_time() - begun

    short = min(seconds(4_000) for _ in range(3))
    assert seconds(64_000) < 100 * short + 0.05  # 16 times as long; a square would make it 256 times


def test_a_problem_that_quotes_a_whole_file_is_cut_and_holds_no_part_of_a_secret() -> None:
    """Of its middle nothing is shown, so that it need not be searched: that took half a minute of three megabytes."""
    begin = time.perf_counter()
    login = f"https://me:{'hunter2' * 40}@host/x"  # so long that what is cut is near what is shown
    for text in (f"{login} " * 10_000, login * 10_000, "c1, " * 800_000):
        said = str(ConfigError(f"found {text}"))
        assert "hunter2" not in said
        assert len(said) < 3_500
        assert said.startswith("found ")
    assert time.perf_counter() - begin < 5
