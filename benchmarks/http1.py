"""As much of HTTP/1.1 as a load generator and a mock upstream need: where a message ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

_LENGTH = b"content-length:"
_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"0\r\n\r\n"


def message_end(buffer: bytes | bytearray) -> int | None:
    """The length of the first message in `buffer`, or None while it is not whole.

    Nobody pipelines here: a chunked message ends with the buffer. A message that tells neither
    length nor chunks has no body.
    """
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(buffer[:head_end]).lower()
    at = head.find(_LENGTH)
    if at >= 0:
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        end = head_end + 4 + length
        return end if len(buffer) >= end else None
    if _CHUNKED in head:
        return len(buffer) if buffer.endswith(_LAST_CHUNK) else None
    return head_end + 4


def post(url: str, headers: Mapping[str, str], body: object) -> bytes:
    """A whole POST of `body` as JSON."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"host: {address.netloc}",
        "content-type: application/json",
        "accept: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def reply(body: object) -> bytes:
    """A whole answer 200 with `body` as JSON."""
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content
