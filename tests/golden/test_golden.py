"""The numbers of every method are those of the file, on every processor; on a machine that rounds alike, every bit.

`python -m tests.golden.make` remakes the file. Its numbers were computed first before the files of elder moved into
rooms, so they also say that moving them changed nothing.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from elder.registry import METHODS, TRAINABLE
from tests.golden.record import Record, differences, exact, machine, read, rounded
from tests.golden.streams import ARCHITECTURES, cases, run


@pytest.fixture(scope="module")
def kept() -> Record:
    return read()


def test_every_method_and_every_training_is_kept(kept: Record) -> None:
    names = [*METHODS, *(f"{method} training" for method in TRAINABLE)]
    wanted = {f"{name} {architecture}" for name in names for architecture in ARCHITECTURES}
    assert set(cases()) == set(kept["float64"]) == set(kept["float32"]) == wanted


@pytest.mark.parametrize("case", cases())
def test_numbers_are_those_of_the_file(kept: Record, case: str, tmp_path: Path) -> None:
    wrong = differences(rounded(run(case, torch.float64, tmp_path)), kept["float64"][case])
    assert not wrong, f"{len(wrong)} numbers of '{case}' changed: if that is intended, run tests.golden.make\n" + (
        "\n".join(wrong[:20])
    )


@pytest.mark.parametrize("case", cases())
def test_bits_are_those_of_the_file(kept: Record, case: str, tmp_path: Path) -> None:
    if machine() != kept["machine"]:
        pytest.skip(f"the digests were made on {kept['machine']}, this is {machine()}; float64 is compared above")
    assert exact(run(case, torch.float32, tmp_path)) == kept["float32"][case]


def test_a_number_that_moves_is_named(kept: Record) -> None:
    wanted = kept["float64"]["elder llama"]
    name = next(name for name, value in wanted["state"].items() if not isinstance(value, str))
    assert not differences(wanted, wanted)
    for change in ("loss", "length", "weights", "answer", "tensor"):
        found = deepcopy(wanted)
        if change == "loss":
            found["losses"][1][0] *= 1 + 1e-9
        elif change == "length":
            found["state"][name][0] *= 1 + 1e-9
        elif change == "weights":
            found["state"][name][1] += 1e-9 * found["state"][name][0]
        elif change == "answer":
            found["answers"][0] = "s3"
        else:
            del found["state"][name]
        (wrong,) = differences(found, wanted)
        assert ("loss of batch 1, step 0" in wrong) if change == "loss" else (wrong.startswith((name, "answers")))
