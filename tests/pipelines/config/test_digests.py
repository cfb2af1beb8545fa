"""Digests of the packaged configs: a run that was begun with an earlier version is continued only if they are equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.run import kind_of
from tests.pipelines.config.test_json_schema import LOAD

KNOWN = json.loads(Path(__file__).with_name("digests.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_a_packaged_config_has_the_digest_that_it_always_had(name: str) -> None:
    # Whoever changes a config on purpose writes its new digest into digests.json: runs of it begin anew.
    digest = LOAD[kind_of(name)](name).digest()
    assert digest == KNOWN.get(name), f'a new config? digests.json needs "{name}": "{digest}"'
