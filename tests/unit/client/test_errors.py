from __future__ import annotations

import httpx
import pytest

from dspex_ray.api.problems import (
    headers_of,
    openai_error,
    openai_status,
    problem,
    status_of,
)
from dspex_ray.client.errors import error_in, error_of, of_transport, retry_after_s
from dspex_ray.core import errors

URL = "http://platform"


@pytest.mark.parametrize("kind", errors.every_error())
@pytest.mark.parametrize("plane", ["control", "data"])
def test_every_error_comes_back_as_it_went(kind: type[errors.DspexRayError], plane: str) -> None:
    sent = kind("what is, what was asked", field="name", rule="r", message_of="x", n=3)
    if plane == "control":
        status, body = status_of(sent), problem(sent, "/v1/models", "r-1")
    else:
        status, body = openai_status(sent), openai_error(sent)
    response = httpx.Response(status, json=body)
    came = error_of(status, response.headers, response.content)
    assert (type(came), came.message, came.details) == (kind, sent.message, sent.details)


def test_details_may_be_named_like_arguments() -> None:
    body = {"code": "invalid", "detail": "no", "details": {"message": "m", "self": 1, "field": "f"}}
    error = error_in(body)
    assert isinstance(error, errors.Invalid)
    assert error.field == "f"
    assert error.details == {"message": "m", "self": 1, "field": "f"}


def test_retry_after_comes_from_the_header_when_the_body_does_not_say() -> None:
    error = errors.Overloaded("full")
    headers = httpx.Headers(headers_of(error))
    came = error_of(503, headers, httpx.Response(503, json=problem(error, "/", None)).content)
    assert came.retry_after_s == 1.0


def test_a_code_of_a_newer_server_is_a_plain_error_that_keeps_it() -> None:
    error = error_in({"code": "brand_new", "detail": "hm"})
    assert type(error) is errors.DspexRayError
    assert error.details == {"code": "brand_new"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, errors.RateLimited),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
        (500, errors.DspexRayError),
        (404, errors.DspexRayError),
        (307, errors.DspexRayError),
    ],
)
@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'{"detail": "Not Found"}', b"\xff"])
def test_bodies_that_are_not_ours_count_by_their_status(
    status: int, kind: type[errors.DspexRayError], content: bytes
) -> None:
    error = error_of(status, {}, content)
    assert type(error) is kind
    assert error.message == f"HTTP {status} with a body that is not understood"
    assert error.details == {"status": status}


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("refused"), errors.Unavailable),
        (httpx.ConnectTimeout("slow"), errors.Unavailable),
        (httpx.RemoteProtocolError("closed"), errors.Unavailable),
        (httpx.ReadError(""), errors.Unavailable),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded),
        (httpx.DecodingError("gzip"), errors.DspexRayError),
    ],
)
def test_no_answer(failure: httpx.HTTPError, kind: type[errors.DspexRayError]) -> None:
    error = of_transport(failure, URL)
    assert type(error) is kind
    assert URL in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("2", 2.0),
        ("-1", None),
        ("nan", None),
        ("1e9", 86_400.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds
