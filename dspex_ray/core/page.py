"""Lists are served page by page, with an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from dspex_ray.core.errors import Invalid

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 500


class Page(BaseModel, Generic[T]):
    """`next_cursor` is None on the last page; else pass it back as `cursor`."""

    model_config = ConfigDict(frozen=True)

    items: list[T]
    next_cursor: str | None = None


def encode_cursor(*position: str | int) -> str:
    raw = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(cursor: str) -> list[str | int]:
    """The position that `encode_cursor` was given; raises Invalid for anything else."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, binascii.Error, UnicodeError):
        position = None
    if not isinstance(position, list) or not all(isinstance(p, str | int) for p in position):
        raise Invalid(
            f"cursor {cursor!r} is not one this server gave", field="cursor", rule="opaque"
        )
    return position


def cursor_position(cursor: str, read: Callable[[str], T]) -> T:
    """The one value that a cursor was made of, as `read` (str, int, UUID) takes it.

    Raises Invalid for a cursor of another list, or of none.
    """
    position = decode_cursor(cursor)
    try:
        (value,) = position
        return read(str(value))
    except ValueError:
        raise Invalid(
            f"cursor {cursor!r} is not one this server gave", field="cursor", rule="opaque"
        ) from None
