"""Models in GGUF files: dequantised once, and kept in elder's cache as an ordinary directory of a model.

A kept model is named by the digest of its file, so a file is converted once, wherever it lies and whatever it is
called. Everything after that needs neither the file nor the library that reads it. torch is imported when a file is
converted.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from elder.errors import ModelError
from elder.once import cache_root, made_once
from elder.paths import user_path

SUFFIX = ".gguf"
MAGIC = b"GGUF"
ALONE = "model.gguf"  # a file's name where it is read
RECORD = "gguf.json"  # of a kept model: which file it was made from
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", RECORD)


def is_gguf(source: str) -> bool:
    """Whether a source is a GGUF file by its name."""
    return source.lower().endswith(SUFFIX) and "://" not in source


def find_gguf(source: str, cache_dir: str | Path | None = None) -> Path | None:
    """The directory that a GGUF file was converted into, if it was.

    Raises:
        ModelError: There is no such file.
    """
    home = gguf_home(_digest(_file(source)), cache_dir)
    return home if is_kept(home) else None


def ensure_gguf(source: str, cache_dir: str | Path | None = None) -> Path:
    """The directory of a model in the hub's layout, made from a GGUF file on first use.

    Args:
        source: The file.
        cache_dir: Root of elder's cache. Default: `~/.cache/elder`.

    Raises:
        ModelError: There is no such file, it is damaged, it holds what transformers cannot take over whole, or a
            library is not installed. Then nothing is kept.
    """
    file = _file(source)
    home = gguf_home(_digest(file), cache_dir)
    if is_kept(home):
        return home
    check_gguf(file, source)
    try:
        return made_once(home, is_kept, lambda directory: convert(file, directory, source))
    except OSError as error:
        raise not_kept(source, home, error) from error


def gguf_home(sha256: str, cache_dir: str | Path | None = None) -> Path:
    """Where the model of a file is kept."""
    return cache_root(cache_dir) / "gguf" / sha256[:32]


def is_kept(home: Path) -> bool:
    """Whether a directory has all files of a model."""
    return all((home / name).is_file() for name in FILES) and any(home.glob("model*.safetensors"))


def not_kept(source: str, home: Path, error: OSError) -> ModelError:
    """The error for a cache that cannot be written."""
    return ModelError(
        f"model.source: '{source}' cannot be kept under {home.parent}: {error}; make the directory writable, or "
        "choose another cache directory"
    )


def check_gguf(file: Path, source: str) -> int:
    """Read the table of a GGUF file, without its values.

    Returns:
        How many values its tensors have.

    Raises:
        ModelError: It is no GGUF file, or damaged, or cut off; or a library is not installed.
    """
    require_libraries(source)
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"model.source: '{source}' is no GGUF file: it does not begin with {MAGIC.decode()}")
    reader: Any = import_module("gguf").GGUFReader
    try:
        with warnings.catch_warnings():  # numpy's, of counts that cannot be
            warnings.simplefilter("ignore")
            return sum(int(tensor.n_elements) for tensor in reader(str(file)).tensors)
    except Exception as error:  # what it meets in a damaged file is described nowhere, so neither is what it raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.source: '{source}' is damaged or cut off ({reason[:300]}); get the file again"
        ) from error


def require_libraries(source: str) -> None:
    """Find out that a GGUF file cannot be read before anything is fetched or written.

    Raises:
        ModelError: A library is not installed; the extra is named.
    """
    from transformers.utils.import_utils import is_accelerate_available, is_gguf_available

    needed = (("gguf", is_gguf_available), ("accelerate", is_accelerate_available))
    absent = [name for name, is_here in needed if not is_here()]
    if absent:
        raise ModelError(
            f"model.source: '{source}' is kept in a GGUF file, which is read once with {' and '.join(absent)}: "
            "pip install 'elder[gguf]'"
        )


def convert(file: Path, directory: Path, source: str) -> None:
    """Write a GGUF file's model into an empty directory: float32 safetensors, config, tokenizer and a record.

    Raises:
        ModelError: See `ensure_gguf`.
    """
    import torch
    import transformers

    from elder.models.foreign import refusing
    from elder.models.rehearsal import quiet

    values = check_gguf(file, source)
    with refusing(source, "GGUF"), quiet(), redirect_stderr(io.StringIO()):  # bars, also where no terminal is
        with _alone(file, directory) as alone:
            model, tokenizer = _read(alone, source, values)
        config = model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):  # transformers saves no model that it has read from a GGUF file
            plain: Any = type(model)(config)
        plain.load_state_dict(model.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        _drop_foreign_tokens(directory / "tokenizer.json", model.get_input_embeddings().num_embeddings)
    record = {"sha256": _digest(file), "bytes": file.stat().st_size, "transformers": transformers.__version__}
    (directory / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def gguf_config(source: str) -> Any:
    """The transformers config that a GGUF file describes; nothing is converted or kept.

    Raises:
        ModelError: There is no such file, it is damaged, or a library is not installed.
    """
    from transformers import AutoConfig

    from elder.models.foreign import NO_CODE, refusing

    file = _file(source)
    check_gguf(file, source)
    with _alone(file) as place, refusing(source, "GGUF"):
        return AutoConfig.from_pretrained(place, gguf_file=ALONE, **NO_CODE)


@contextmanager
def _alone(file: Path, within: Path | None = None) -> Iterator[str]:
    """A temporary directory that holds a GGUF file alone: what lies beside it does not belong to it."""
    with TemporaryDirectory(dir=within) as place:
        (Path(place) / ALONE).symlink_to(file.resolve())
        yield place


def _read(directory: str, source: str, values: int) -> tuple[Any, Any]:
    """Model and tokenizer of the file in a directory, every value of the file in its place."""
    import torch
    import transformers

    from elder.models.foreign import NO_CODE
    from elder.models.rehearsal import named

    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    packing = getattr(transformers, "GgufConfig", None)  # of releases that can leave the weights packed
    if packing is not None:
        options["quantization_config"] = packing(dequantize=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, gguf_file=ALONE, **NO_CODE)
    kind: Any = transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(directory, gguf_file=ALONE, **options, **NO_CODE)
    if info["missing_keys"]:
        raise ModelError(
            f"model.source: '{source}' lacks {len(info['missing_keys'])} tensors of the model that it describes: "
            f"{named(info['missing_keys'])}; get the whole file"
        )
    placed = sum(parameter.numel() for parameter in model.parameters())
    if placed != values:
        raise ModelError(
            f"model.source: '{source}' holds {values:,} values, of which transformers gives {placed:,} a place"
            f"{': ' + named(info['unexpected_keys']) + ' is left out' if info['unexpected_keys'] else ''}; it would be "
            "another model. Use the model's directory or hub id instead"
        )
    bad = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise ModelError(
            f"model.source: '{source}': {len(bad)} tensors hold values that are no numbers (NaN or infinite): "
            f"{named(bad)}; get the file again"
        )
    return model, tokenizer


def _drop_foreign_tokens(file: Path, rows: int) -> None:
    """Take out tokens that have no embedding, of which the GGUF file knows nothing.

    transformers 5.23 puts its GPT-2's `<|endoftext|>` behind every byte-level vocabulary that lacks it.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    known = [token for token in content["added_tokens"] if token["id"] < rows]
    if len(known) < len(content["added_tokens"]):
        file.write_text(json.dumps({**content, "added_tokens": known}, ensure_ascii=False), encoding="utf-8")


def _file(source: str) -> Path:
    path = user_path(source, ModelError)
    if not path.is_file():
        raise ModelError(f"model.source: there is no file '{source}'")
    return path


def _digest(file: Path) -> str:
    """The sha256 of a file; it is read again when it has changed."""
    about = file.stat()
    return _digest_of(file.resolve(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest_of(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
