"""Names from earlier versions: still read, and never in the way of a run that was begun with them."""

from __future__ import annotations

import pytest

from elder.errors import ConfigError
from elder.pipelines.config.files import parse_document, with_overrides
from elder.pipelines.config.former import in_former_words
from elder.pipelines.config.run import diff, parse_config, resolve

EARLIER = """\
run_id: r1
stream: {strategy: apart}
cluster: {patience_s: 3}
tracking: {patience_s: 4, register: null}
"""
TODAY = """\
run_id: r1
stream: {strategy: isolated}
cluster: {wait_for_resources_s: 3}
tracking: {retry_timeout_s: 4, register: null}
"""
# Options of elder-plus that came later, as an earlier version worked.
AS_BEFORE = (
    "editor: {distance: null, whole_words: false, ask_base: null, after_answer: edited, replaces: prompt, "
    "center: first, trade: null, answer_bias: 0}\n"
)
# What an earlier version, which knew the former names only, made of EARLIER.
DIGEST = "01692919e6835d3808679a90630401c674d27cb1dcd31a8ebe603905fe635c2d"


def test_former_names_mean_what_todays_do() -> None:
    earlier, today = parse_config(EARLIER), parse_config(TODAY)
    assert earlier == today
    assert diff(earlier, today) == []
    assert parse_document(TODAY, "c.yaml").notes == ()


def test_a_run_of_an_earlier_version_can_be_continued() -> None:
    config = parse_config(TODAY + AS_BEFORE)
    assert config.digest() == DIGEST
    assert config.changed_since(EARLIER + AS_BEFORE, "store") == []
    assert config.changed_since((EARLIER + AS_BEFORE).replace("apart", "stream"), "store") == [
        'stream.strategy: "stream" -> "isolated"'
    ]


def test_notes_say_where_and_what_the_name_is_now() -> None:
    document = with_overrides(parse_document(EARLIER, "c.yaml"), ["cluster.patience_s=5"])
    assert document.notes == (
        "c.yaml:3: cluster.patience_s is now called cluster.wait_for_resources_s",
        "c.yaml:4: tracking.patience_s is now called tracking.retry_timeout_s",
        "c.yaml:2: stream.strategy: 'apart' is now called 'isolated'",
        "command line: cluster.patience_s is now called cluster.wait_for_resources_s",
    )
    assert resolve(document).cluster.wait_for_resources_s == 5  # the command line wins, whatever names are used
    with pytest.raises(ConfigError, match=r"command line: cluster\.wait_for_resources_s: expected a number"):
        resolve(with_overrides(parse_document(EARLIER, "c.yaml"), ["cluster.patience_s=soon"]))


def test_both_names_of_a_key_in_one_file_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:1: cluster.patience_s: is the former name of .* given as well"):
        parse_document("cluster: {patience_s: 3, wait_for_resources_s: 4}", "c.yaml")


def test_a_data_set_that_was_replaced_is_named_and_its_runs_are_others() -> None:
    earlier = parse_document("data: {source: countries}", "c.yaml")
    assert [note for note in earlier.notes if "was replaced by 'geography:chat'" in note] == list(earlier.notes)
    assert parse_config("data: {source: countries}").data.source == "geography:chat"
    assert "geography:chat" in in_former_words({"data.source": "geography:chat"}).values()
