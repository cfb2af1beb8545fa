"""What lies beside the tensors of an adapter: `manifest.json`, every value of which is checked before it is used.

Imports no torch. Knows nothing of what an editor does with its options, nor of stages and stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from elder.errors import AdapterFileError
from elder.json_text import JsonError, parse_json
from elder.options.fields import Natural, Settings, Text
from elder.options.messages import details_of, path_of, sentence
from elder.paths import check_plain

FORMAT = 1
WEIGHTS, MANIFEST = "adapter.safetensors", "manifest.json"
LONGEST_NAME = 255  # bytes of a file's name
ENTRIES = ("method", "options", "base", "files", "state_digest")  # what a manifest must hold

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(Settings):
    """Later versions may add entries."""

    model_config = ConfigDict(extra="allow")


class _File(_Part):
    sha256: Sha256
    bytes: Natural | None = None


class _Files(_Part):
    files: dict[str, _File]


class _MadeOn(_Part):
    source: Text
    digest: Sha256
    dtype: str
    revision: str | None = None
    architecture: str | None = None


class _Chat(_Part):
    system: str | None
    plain: bool = False
    template: Sha256 | None = None


class _Manifest(_Files):
    method: str
    options: dict[str, Any]
    base: _MadeOn
    state_digest: Sha256
    chat: _Chat | None = None
    kind: str | None = None
    edits: Natural | None = None
    steps: Natural | None = None


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of an adapter directory.

    Raises:
        AdapterFileError: There is none, it cannot be read, a value has the wrong type, or it is of a later format.
    """
    path = Path(directory) / MANIFEST
    check_plain(path, AdapterFileError)
    try:
        manifest = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise AdapterFileError(f"'{directory}' is no adapter: it has no {MANIFEST}") from None
    except (OSError, JsonError) as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise AdapterFileError(f"'{path}' is no manifest: expected a JSON object, found {type(manifest).__name__}")
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        found = str(manifest.get("format"))[:40]
        raise AdapterFileError(f"'{path}' has format {found}, this version of elder reads format {FORMAT}")
    missing = [name for name in ENTRIES if name not in manifest]
    if missing:
        raise AdapterFileError(f"'{path}' is damaged: it lacks {', '.join(missing)}; pull the adapter again")
    wrong = _wrong(_Manifest, manifest) or _wrong_names(manifest["files"])
    if wrong:
        raise AdapterFileError(f"'{path}' is damaged: {'; '.join(wrong)}")
    return manifest


def listed_files(manifest: Any) -> dict[str, dict[str, Any]]:
    """The files that a manifest lists: name -> {"sha256", "bytes"}.

    Raises:
        ValueError: Something is wrong with the list; it says what.
    """
    wrong = _wrong(_Files, manifest) or _wrong_names(manifest["files"])
    if wrong:
        raise ValueError("; ".join(wrong))
    return dict(manifest["files"])


def verify(directory: str | Path) -> dict[str, Any]:
    """Check every file of an adapter directory against its manifest; returns the manifest.

    Raises:
        AdapterFileError: A file is missing or differs.
    """
    manifest = load_manifest(directory)
    for name, expected in manifest["files"].items():
        path = Path(directory) / name
        if not path.is_file():
            raise AdapterFileError(f"'{path}' is missing; pull the adapter again")
        if fingerprint(path)["sha256"] != expected["sha256"]:
            raise AdapterFileError(
                f"'{path}' is damaged: its sha256 differs from the manifest's; pull the adapter again"
            )
    return manifest


def fingerprint(path: Path) -> dict[str, Any]:
    """The sha256 and the size of a file, as a manifest lists them."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return {"sha256": hasher.hexdigest(), "bytes": path.stat().st_size}


def _wrong(model: type[Settings], manifest: Any) -> list[str]:
    """What is wrong with the types of a manifest, in sentences."""
    try:
        model.model_validate(manifest)
    except ValidationError as error:
        found = details_of(error)
    else:
        return []
    said = {"missing": "is missing", "string_pattern_mismatch": "is no sha256 (64 hexadecimal digits)"}
    return [f"{'.'.join(path_of(one)) or 'it'}: {said.get(one['type']) or sentence(one, model)}" for one in found]


def _wrong_names(files: Mapping[str, Any]) -> list[str]:
    """A name from elsewhere must not lead out of the directory, and what is read must have been checked."""
    wrong = [f"files: {name!r} is no plain name of a file beside it" for name in files if not _is_plain(name)]
    return wrong or ([] if WEIGHTS in files else [f"files: it does not list {WEIGHTS}"])


def _is_plain(name: str) -> bool:
    if not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        return False
    return not set(name) & set("/\\:") and not name.startswith(".") and name not in ("", MANIFEST)
