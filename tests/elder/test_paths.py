"""What stands at a path that a user names: plain files are read, all else is named and not opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from elder.errors import AdapterError, AdapterFileError, InputError
from elder.json_text import read_json
from elder.manifest import load_manifest
from elder.paths import check_plain, not_plain
from elder.tensor_files import read_tensors


def test_what_is_no_plain_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe")
    Path("file").write_text("x")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        found = {name: not_plain(Path(name)) for name in (".", "pipe", "link", "socket", "/dev/zero", "file", "absent")}
    assert found == {
        ".": "a directory",
        "pipe": "a pipe",
        "link": "a pipe",
        "socket": "a socket",
        "/dev/zero": "a device",
        "file": None,
        "absent": None,
    }
    with pytest.raises(InputError, match="pipe: cannot be read: it is a pipe"):
        check_plain(Path("pipe"))


def test_files_of_adapters_are_looked_at_before_they_are_opened(tmp_path: Path) -> None:
    for name in ("manifest.json", "weights.safetensors", "other.json"):
        (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(AdapterFileError, match="it is a device"):
        load_manifest(tmp_path)
    with pytest.raises(AdapterError, match="it is a device"):
        read_tensors(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="it is a device"):
        read_json(tmp_path / "other.json")
