"""Mutations that know nothing of what they mutate: of bytes, of texts, and of nested values as JSON has them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

ODD_TEXTS = (
    "", " ", "\n", "\t\r", "\u200b", "\u200b\u2060\ufeff", "\x00", "\x07\x1b[31m", "\ud83d", "e\u0301", "\u202eabc",
    "007", "NaN", "null", "-1", "1e308", "1e999", "true", "../../../etc/passwd", "/etc/passwd", "~", "~nobody-here/x",
    "C:\\x",
    "a/b", ".", "..", "manifest.json", "x" * 300, "x" * 10_000, "{}", "[]", "{0}", "%s", "\\", "'", '"', "*a", "&a",
    "!!float", "2026-01-31", "1:30", "0x1f", "https://u:pw@host/x", "s3://bucket/prefix", "file:///", "hub:", "world:",
    "world:nowhere", "jsonl", "models:/x@y",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**18, 10**299, 10**400, 1.5, -0.0, 1e-320, 1e30, 1e308, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
ODD_BYTES = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\r\n", b"[" * 3000, b'{"a":' * 3000, b"\\ud83d",
    b"9" * 5000, b"1e999", b"NaN", b"Infinity", b"\x1f\x8b\x08", b"PK\x03\x04", b"\x80\x02}q\x00.", b"- " * 2000,
    b"&a [*a]", b"*a", b"<<: *a\n", b"!!float x", b"!!python/none", b"? ", b": ", b"#", b"---\n", b"%YAML 9.9\n",
    b'"\\U00110000"',
)  # fmt: skip


class Untouched(Random):
    """In the place of a source of chance: everything stays as it is, and must be taken."""


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """One to three changes somewhere."""
    if isinstance(rng, Untouched):
        return content
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, size = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        before, behind = content[:at], content[at:]
        kind = rng.randrange(7)
        if kind == 0:
            content = before + bytes([rng.randrange(256)]) + behind[1:]
        elif kind == 1:
            content = before + behind[size:]
        elif kind == 2:
            content = before
        elif kind == 3:
            content = before + rng.choice(ODD_BYTES) + behind
        elif kind == 4:
            content = before + behind[:size] * rng.choice((2, 3, 50)) + behind[size:]
        elif kind == 5:
            content = before + rng.randbytes(size) + behind[size:]
        else:
            content = behind + before
    return content


def odd_value(rng: Random, depth: int = 0) -> Any:
    """A value that nobody expects."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(ODD_TEXTS)
    if kind < 5:
        return rng.choice(ODD_NUMBERS)
    if kind == 5 or depth > 2:
        return rng.choice((None, True, False, [], {}, [[]], [{}], {"": ""}))
    if kind == 6:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(rng.choice(ODD_TEXTS)): odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}


def mutated_value(rng: Random, value: Any) -> Any:
    """Nested values with one to three changes: another value, a key more or less, a key renamed, an item repeated."""
    value = copy.deepcopy(value)
    if isinstance(rng, Untouched):
        return value
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places or rng.random() < 0.02:
            return odd_value(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 4:
            holder[key] = odd_value(rng)
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            holder[key] = rng.choice(([holder[key]], {"value": holder[key]}, [holder[key]] * 3, str(holder[key])))
        elif kind == 6 and isinstance(holder, dict):
            holder[str(rng.choice(ODD_TEXTS))] = holder.pop(key)
        elif isinstance(holder, dict):
            other = rng.choice(list(holder))
            holder[key], holder[other] = holder[other], holder[key]
        else:
            holder.insert(key, odd_value(rng))
    return value


def as_json(rng: Random, value: Any) -> bytes:
    """A value as JSON, at times not quite: a key twice, nested deeply, NaN, half characters."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
    kind = -1 if isinstance(rng, Untouched) else rng.randrange(12)
    if kind == 0 and "{" in text:
        at = rng.choice([place for place, char in enumerate(text) if char == "{"])
        inner = text[at + 1 :].split(",")[0].split("}")[0]
        text = f"{text[: at + 1]}{inner},{text[at + 1 :]}" if inner.strip() else text
    elif kind == 1:
        depth = rng.choice((90, 101, 900, 40_000))
        text = "[" * depth + text + "]" * depth
    elif kind == 2 and any(char.isdigit() for char in text):
        at = rng.choice([place for place, char in enumerate(text) if char.isdigit()])
        text = text[:at] + rng.choice(("9" * 4500, "1e999", "NaN", "-Infinity", "0123")) + text[at + 1 :]
    return text.encode("utf-8", errors=rng.choice(("surrogatepass", "backslashreplace")))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a nested value: its holder and its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield value, key
            yield from _places(item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)
