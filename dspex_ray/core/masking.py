"""Secrets never leave in clear: one function masks them wherever a row or log is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_SECRET_FIELD = re.compile(
    r"(api_?key|secret|token|password|authorization|credential|ciphertext)$", re.IGNORECASE
)
_COUNTS = re.compile(r"(max|prompt|completion|total|cost_per|per)_tokens?$", re.IGNORECASE)


def is_secret_field(name: str) -> bool:
    return bool(_SECRET_FIELD.search(name)) and not _COUNTS.search(name)


def masked(value: Any) -> Any:
    """A copy in which the value of every secret-named field is the mask (None stays None)."""
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret_field(str(key)) and item is not None else masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value
