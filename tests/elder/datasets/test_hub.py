"""Hub datasets, through local copies only: the library reads parquet, saved datasets and data files."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.datasets import load_edits
from elder.edit import Edit, Probe
from elder.errors import DataError

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "A", "target": "b", "locality": [{"prompt": "C", "answer": "d"}], "subject": None},
    {"prompt": "E", "target": "f", "locality": None, "subject": "E"},
]
EDITS = [Edit("A", "b", locality=(Probe("C", "d"),)), Edit("E", "f", subject="E")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "edits.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    assert load_edits("hub:someone/edits", path) == EDITS
    assert load_edits("jsonl", path) == EDITS
    edits = load_edits(path)
    assert edits == EDITS
    assert edits.places[1].endswith("row 1")


def test_a_saved_dataset_with_parts_and_class_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["Privacy", "Unions"])}
    )
    parts = {"train": {"text": ["one"], "label": [0]}, "test": {"text": ["two"], "label": [1]}}
    whole = {part: datasets.Dataset.from_dict(rows, features=features) for part, rows in parts.items()}
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "saved")
    assert load_edits("hub:court", tmp_path / "saved")[0].target == "Privacy"
    assert load_edits("hub:court", tmp_path / "saved", split="test")[0].target == "Unions"
    with pytest.raises(DataError, match="split 'dev'"):
        load_edits("hub:court", tmp_path / "saved", split="dev")


def test_a_directory_of_data_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "data" / "train.jsonl")
    assert load_edits("hub:someone/edits", tmp_path / "data") == EDITS


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_edits("hub:someone/edits", tmp_path / "none")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"broken\.parquet: the dataset cannot be loaded"):
        load_edits("hub:someone/edits", tmp_path / "broken.parquet")
    path = tmp_path / "wrong.csv"
    path.write_text("question,reply\nwho,me\n")
    with pytest.raises(DataError, match=r"row 0: the fields \(question, reply\) fit no known layout"):
        load_edits(path)
