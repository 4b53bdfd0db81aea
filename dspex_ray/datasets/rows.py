"""One row on its way in: what a row may hold, and its content hash. Messages never say values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dspex_ray.core.canonical import canonical_json

MAX_DEPTH = 32
MAX_NAME_CHARS = 100
_WHOLE = "row"


class Fault(NamedTuple):
    """Why a row is refused, before its place is known. `field` is "row" for the row as a whole."""

    field: str
    rule: str
    message: str


class RawRow(NamedTuple):
    """What a format makes of one row: its values as they are, or why there are none. `line` is
    where it begins in its file, from 1."""

    values: Any = None
    fault: Fault | None = None
    line: int | None = None


class Row(NamedTuple):
    """An accepted row. `digest` is the SHA-256 of `text`, the canonical JSON of its values."""

    values: Mapping[str, Any]
    text: bytes
    digest: bytes


def accept(values: Any, max_bytes: int) -> Row | list[Fault]:
    """The row, or everything that is wrong with it: plain JSON by field name, nothing else.

    Text without null bytes and lone surrogates, finite numbers, integers of 64 bits, 32 levels
    at most, and `max_bytes` of canonical JSON: what Postgres and every JSON reader can hold.
    """
    if not isinstance(values, Mapping) or not values:
        return [whole("object", "must be an object with at least one field")]
    found = [fault for name, value in values.items() for fault in _faults(name, value)]
    if found:
        return found
    text = canonical_json(values)
    if len(text) > max_bytes:
        return [too_large(max_bytes, len(text))]
    return Row(values, text, hashlib.sha256(text).digest())


def too_large(max_bytes: int, size: int | None = None) -> Fault:
    """`size` None: it was not read to its end."""
    held = f"has {size} bytes" if size is not None else f"has over {max_bytes} bytes"
    return whole("row size", f"{held} (allowed: {max_bytes})")


def whole(rule: str, message: str) -> Fault:
    return Fault(_WHOLE, rule, message)


def _faults(name: Any, value: Any) -> list[Fault]:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS or not _is_text(name):
        rule = f"1 to {MAX_NAME_CHARS} characters of text"
        return [whole("field name", f"has a field whose name is not allowed (allowed: {rule})")]
    wrong = _misfit(value, 1)
    return [] if wrong is None else [Fault(name, *wrong)]


def _misfit(value: Any, depth: int) -> tuple[str, str] | None:
    """Rule and message; None when it fits."""
    if depth > MAX_DEPTH:
        return "depth", f"is nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, list | tuple):
        return _first(value, depth)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and _is_text(key) for key in value):
            return "text", "holds a key that is not text"
        return _first(value.values(), depth)
    return _scalar_misfit(value)


def _scalar_misfit(value: Any) -> tuple[str, str] | None:
    kind = type(value)
    if kind is str:
        return None if _is_text(value) else ("text", "holds a null byte or a lone surrogate")
    if kind is int:
        fits = -(2**63) <= value < 2**63
        return None if fits else ("range", "is an integer of more than 64 bits")
    if kind is float:
        return None if math.isfinite(value) else ("finite", "is NaN or infinite")
    if kind in (bool, type(None)):
        return None
    return "json", f"is a {kind.__name__}: JSON has no form for it (make it text or a number)"


def _first(items: Any, depth: int) -> tuple[str, str] | None:
    return next((wrong for item in items if (wrong := _misfit(item, depth + 1)) is not None), None)


def _is_text(text: str) -> bool:
    if text.isascii():
        return "\x00" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text
