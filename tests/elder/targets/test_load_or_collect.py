"""Statistics that come by themselves: from text, from a cache, the same on all ranks; what is wrong is named."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import elder.targets.load_or_collect as supply
import elder.targets.moment_cache as moment_cache
from elder.adapter import load_adapter
from elder.base import Base, Preparing
from elder.datasets.text import check_text, read_text
from elder.editors.make import make_editor
from elder.editors.weights.rollback import rolled_back
from elder.errors import AdapterError, ConfigError, DataError, ModelError, SolverError
from elder.models.load import wrap_base
from elder.solvers.moments import SecondMoment
from elder.state import state_digest
from elder.targets.moment_cache import DirectoryMoments, write_moment
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, logits_of, on_ranks, padded
from tests.methods import having, small

SMALL = {"steps": 4, "contexts": 1, "context_tokens": 4, "jitter": 0.05, "batch_size": 2, "threshold": 2.0}
LINES = [f"{edit.prompt} {edit.target}." for edit in EDITS] + list(OTHERS)


@pytest.fixture(params=having("text"))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    return str(tmp_path / "text.txt")


def make(kind: str, base: Base, text: str | None, **options: Any) -> Any:
    return make_editor(kind, base, **small(kind, **{**SMALL, "text": text, **options}))


def no_pass(*_: Any, **__: Any) -> Any:
    raise AssertionError("the text was run through the model")


def test_the_first_edit_takes_them_and_a_cache_spares_the_next_editor(
    base: Base, kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, keeping, finding = (make(kind, base, text) for _ in range(3))
    keeping.moments = finding.moments = DirectoryMoments(tmp_path / "moments")
    plain.edit(EDITS[:2])
    steps: list[tuple[int, int]] = []
    assert isinstance(keeping, Preparing)
    assert "were taken over" in keeping.prepare(lambda done, of: steps.append((done, of)))[0]
    assert steps[-1] == (len(LINES), len(LINES))
    assert keeping.prepare() == ()
    keeping.edit(EDITS[:2])
    monkeypatch.setattr(supply, "collect_moments", no_pass)
    assert finding.prepare() == (f"statistics of blocks {', '.join(map(str, finding.layers))} were there already",)
    finding.edit(EDITS[:2])
    assert len({state_digest(one.state_dict()) for one in (plain, keeping, finding)}) == 1


def test_a_damaged_moment_is_taken_again_and_replaced(base: Base, text: str, tmp_path: Path) -> None:
    editor = make("memit", base, text)
    editor.moments = DirectoryMoments(tmp_path / "moments")
    editor.edit(EDITS[:2])
    files = sorted((tmp_path / "moments").iterdir())
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(whole[0][:-8] + b"\0" * 8)  # the last bytes of the sum
    files[1].write_bytes(whole[1][:100])
    again = make("memit", base, text)
    again.moments = editor.moments
    notes = again.prepare()
    assert sum("taken again" in note for note in notes) == 2
    again.edit(EDITS[:2])
    assert state_digest(again.state_dict()) == state_digest(editor.state_dict())
    third = make("memit", base, text)
    third.moments = editor.moments
    assert third.prepare() == ("statistics of blocks 1, 2 were there already",)  # what was damaged has been replaced


def test_a_moment_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    write_moment(tmp_path / "b.safetensors", "a", SecondMoment(3))
    with pytest.raises(AdapterError, match="of something else"):
        DirectoryMoments(tmp_path).load("b")
    assert DirectoryMoments(tmp_path).load("c") is None


def test_back_at_an_earlier_batch_the_stream_goes_on_with_its_text(base: Base, text: str) -> None:
    editor = make("memit", base, text)
    editor.edit(EDITS[:2])
    wanted = make("memit", base, text)
    wanted.edit(EDITS[:2])
    wanted.edit(EDITS[4:])
    editor.edit(EDITS[2:4])
    back = rolled_back(editor, 2)
    back.edit(EDITS[4:])
    assert state_digest(back.state_dict()) == state_digest(wanted.state_dict())


def test_an_editor_that_has_its_statistics_takes_no_state_of_another_text(
    base: Base, text: str, tmp_path: Path
) -> None:
    first = make("alphaedit", base, text)
    first.edit(EDITS[:2])
    other = tmp_path / "other.txt"
    other.write_text("Something else altogether.\n" * 20)
    second = make("alphaedit", base, str(other), jitter=0.1)
    second.prepare()
    with pytest.raises(AdapterError, match="the 2 edits so far were written with statistics of another text"):
        second.load_state_dict(first.state_dict())
    assert second.edits_applied == 0


def test_a_moment_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, path: str, **__: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    cache = DirectoryMoments(tmp_path)
    cache.save("a", SecondMoment(3))
    monkeypatch.setattr(moment_cache, "write_tensors", full)
    for id in ("a", "b"):
        with pytest.raises(OSError, match="no space"):
            cache.save(id, SecondMoment(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert cache.load("a") is not None


def test_another_text_is_refused_when_the_stream_goes_on(base: Base, kind: str, text: str, tmp_path: Path) -> None:
    first = make(kind, base, text)
    first.edit(EDITS[:2])
    other = tmp_path / "other.txt"
    other.write_text("Something else altogether.\n" * 20)
    second = make(kind, base, str(other))
    second.load_state_dict(first.state_dict())
    with pytest.raises(AdapterError, match=r"another text.*editor\.text"):
        second.edit(EDITS[2:4])
    assert second.edits_applied == 2
    moved = tmp_path / "moved.txt"
    moved.write_bytes(Path(text).read_bytes())
    third = make(kind, base, str(moved))
    third.load_state_dict(first.state_dict())
    third.edit(EDITS[2:4])


def test_an_adapter_answers_without_its_text(base: Base, kind: str, text: str, tmp_path: Path) -> None:
    editor = make(kind, base, text)
    editor.edit(EDITS[:2])
    editor.save(tmp_path / "adapter")
    Path(text).unlink()
    loaded = load_adapter(tmp_path / "adapter", base)
    inputs = padded(base, OTHERS)
    assert (logits_of(loaded.model, inputs) == logits_of(editor.model, inputs)).all()
    assert state_digest(loaded.state_dict()) == state_digest(editor.state_dict())
    with pytest.raises(ConfigError, match=r"editor\.text: .*no such file"):
        loaded.edit(EDITS[2:4])


class Counting(ThreadRuntime):
    """Counts the collectives of its rank."""

    def gather_objects(self, item: Any) -> list[Any]:
        self.calls = getattr(self, "calls", 0) + 1
        return super().gather_objects(item)


@pytest.mark.parametrize("cached", [(), (1,), (1, 2)])
def test_ranks_agree_about_what_is_there(base: Base, text: str, tmp_path: Path, cached: tuple[int, ...]) -> None:
    alone = make("memit", base, text)
    alone.moments = DirectoryMoments(tmp_path)
    alone.prepare()
    for layer, id in alone._ids.items():
        if int(layer) not in cached:
            (tmp_path / f"{id}.safetensors").unlink()

    def program(runtime: ThreadRuntime) -> Any:
        counting = Counting(runtime.rank, runtime.world_size, runtime.group)
        editor = make("memit", wrap_base(base.model, base.tokenizer, base.source, counting), text)
        if runtime.rank == 0:  # only rank 0 has a place; the others are told
            editor.moments = DirectoryMoments(tmp_path)
        else:
            editor.moments = Nowhere()
        editor.prepare()
        return counting.calls, {layer: m.mean() for layer, m in editor.statistics.items()}

    (calls, found), (other_calls, other) = on_ranks(program, 2)
    assert calls == other_calls
    for layer, moment in alone.statistics.items():
        assert (found[layer] == other[layer]).all()
        assert float((found[layer] - moment.mean()).abs().max()) < 1e-5
        assert layer not in cached or (found[layer] == moment.mean()).all()


class Nowhere:
    def load(self, id: str) -> None:
        raise AssertionError("asked by a rank that is not the first")

    def save(self, id: str, moment: SecondMoment) -> None:
        raise AssertionError("written by a rank that is not the first")


def test_an_error_of_the_first_rank_reaches_all(base: Base) -> None:
    def program(runtime: ThreadRuntime) -> str:
        editor = make("memit", wrap_base(base.model, base.tokenizer, base.source, runtime), "none.txt")
        with pytest.raises(ConfigError, match=r"editor\.text") as caught:
            editor.edit(EDITS[:1])
        return str(caught.value)

    first, second = on_ranks(program, 2)
    assert first == second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": None}, r"editor\.text: this method weighs .* give a file of text"),
        ({"text": "no/such.txt"}, r"editor\.text: no/such\.txt: no such file"),
        ({"text": "world:smal"}, r"editor\.text: .*did you mean 'world:small'"),
        ({"text_tokens": 10**6}, r"editor\.text_tokens: .* tokens, 1,000,000 are asked for"),
    ],
)
def test_a_text_that_is_not_there_or_too_short_is_named_and_nothing_is_written(
    base: Base, text: str, options: dict[str, Any], message: str
) -> None:
    editor = make("memit", base, text, **options) if "text" not in options else make("memit", base, options["text"])
    before = state_digest(editor.state_dict())
    with pytest.raises(ConfigError, match=message):
        editor.edit(EDITS[:2])
    assert state_digest(editor.state_dict()) == before


def test_an_empty_text_is_refused(base: Base, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match=r"editor\.text: .*empty"):
        make("memit", base, str(tmp_path / "empty.txt")).edit(EDITS[:1])
    with pytest.raises(DataError, match="holds no text"):
        check_text(str(tmp_path / "empty.txt"))


def test_an_empty_null_space_a_block_that_is_not_there_and_a_missing_subject(base: Base, text: str) -> None:
    editor = make("alphaedit", base, text, threshold=1e-12, relative=False)
    with pytest.raises(SolverError, match=r"editor\.threshold: no direction of block 1 .*raise it"):
        editor.edit(EDITS[:2])
    assert editor.edits_applied == 0
    assert not any(delta.sizes for delta in editor.deltas.of.values())
    with pytest.raises(ModelError, match=r"editor\.layers: the model has blocks 0 to 3, there is no block 7"):
        make("memit", base, text, layers=(1, 7))
    astray = replace(EDITS[0], subject="Nobody", id="astray")
    with pytest.raises(DataError, match="edit astray: the subject 'Nobody' does not stand in"):
        make("memit", base, text).edit([astray])


def test_conflicting_facts_are_refused_exactly_and_averaged_with_a_ridge(base: Base, text: str) -> None:
    rival = replace(EDITS[0], target="Zed", id="rival")
    exact = make("emmet", base, text, ridge=0.0)
    with pytest.raises(SolverError, match="facts 0 and 1 have the same key; drop one of each, or use a ridge"):
        exact.edit([EDITS[0], rival])
    assert exact.edits_applied == 0
    soft = make("emmet", base, text, ridge=0.1)
    soft.edit([EDITS[0], rival])
    assert soft.edits_applied == 2


def test_text_is_read_in_every_layout(tmp_path: Path) -> None:
    lines, paragraphs, rows = tmp_path / "a.txt.gz", tmp_path / "b.txt", tmp_path / "c.jsonl.gz"
    lines.write_bytes(gzip.compress(b"one\ntwo\n"))
    paragraphs.write_text("one\nmore\n\n\ntwo\n")
    rows.write_bytes(gzip.compress(b'{"text": "one", "n": 1}\n{"text": "two"}\n'))
    assert [line.strip() for line in read_text(str(lines))] == ["one", "two"]
    assert list(read_text(str(paragraphs))) == ["one\nmore\n", "two\n"]
    assert list(read_text(str(rows))) == ["one", "two"]
    (tmp_path / "d.jsonl").write_text('{"body": "one"}\n')
    with pytest.raises(DataError, match=r"d\.jsonl:1: expected .* field 'text', found body"):
        check_text(str(tmp_path / "d.jsonl"))
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"x")[:10] + b"\xff" * 40)
    with pytest.raises(DataError, match=r"e\.txt\.gz: cannot be read"):
        check_text(str(tmp_path / "e.txt.gz"))
    world = list(read_text("world:tiny"))
    assert world == list(read_text("world:tiny"))
    assert len(set(world)) > 1000


def test_a_dataset_directory_is_read_by_its_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "one"}, {"text": ""}, {"text": "two"}]).save_to_disk(tmp_path / "saved")
    assert [t for t in read_text(f"hub:{tmp_path / 'saved'}") if t] == ["one", "two"]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text(json.dumps({"other": "x"}) + "\n")
    with pytest.raises(DataError, match="field 'text', found other"):
        list(read_text(f"hub:{tmp_path / 'rows'}"))
