"""Where the load generator takes an answer for whole."""

from __future__ import annotations

import json

import pytest

from benchmarks.http1 import message_end, post, reply

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
_EMPTY = b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"


@pytest.mark.parametrize("message", [reply({"text": "x" * 100}), _CHUNKED, _EMPTY])
def test_a_message_ends_with_its_last_byte(message: bytes) -> None:
    assert message_end(message) == len(message)
    assert all(message_end(message[:end]) is None for end in range(len(message)))


def test_what_follows_a_message_is_not_of_it() -> None:
    first = reply({"number": 1})
    assert message_end(first + reply({"number": 2})) == len(first)


def test_the_name_of_a_header_has_any_case() -> None:
    message = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
    assert message_end(message) == len(message)


def test_a_post_is_whole() -> None:
    request = post("http://127.0.0.1:8000/v1/x", {"authorization": "Bearer k"}, {"a": 1})
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.decode().split("\r\n") == [
        "POST /v1/x HTTP/1.1",
        "host: 127.0.0.1:8000",
        "content-type: application/json",
        "accept: application/json",
        f"content-length: {len(body)}",
        "authorization: Bearer k",
    ]
    assert json.loads(body) == {"a": 1}
