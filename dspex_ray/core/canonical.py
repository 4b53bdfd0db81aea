"""Canonical JSON and its SHA-256: equal content, equal bytes, equal address."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN. Raises ValueError or TypeError otherwise."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def content_hash(value: Any) -> str:
    """64 hex digits: the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
