"""Writing tensors where there is no room."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from elder.tensor_files import write_tensors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_said_as_by_any_other_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: no room (os error {number})")

    monkeypatch.setattr("elder.tensor_files.save_file", full)
    with pytest.raises(OSError, match="adapter") as caught:
        write_tensors({"a": torch.zeros(9)}, tmp_path / "adapter")
    assert caught.value.errno == number


def test_what_is_wrong_with_the_tensors_stays_as_it_is(tmp_path: Path) -> None:
    tensor = torch.zeros(2, 2)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors({"a": tensor, "b": tensor}, tmp_path / "adapter")
