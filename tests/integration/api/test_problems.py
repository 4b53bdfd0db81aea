"""Every kind of error has its status, its headers and both of its bodies."""

from __future__ import annotations

import pytest

from dspex_ray.api.problems import headers_of, openai_error, openai_status, problem, status_of
from dspex_ray.core import errors
from dspex_ray.core.errors import DspexRayError, every_error

# (control plane, OpenAI's) by kind: an error that is added must be given a place here.
STATUSES = {
    "error": (500, 500),
    "invalid": (422, 400),
    "not_found": (404, 404),
    "conflict": (409, 409),
    "transition_refused": (409, 409),
    "stale": (412, 412),
    "already_exists": (409, 409),
    "denied": (401, 401),
    "too_large": (413, 413),
    "limit_reached": (429, 429),
    "rate_limited": (429, 429),
    "budget_spent": (429, 429),
    "unavailable": (503, 503),
    "provider_down": (502, 502),
    "overloaded": (503, 503),
    "deadline_exceeded": (504, 504),
    "output_invalid": (502, 502),
}
OURS = [kind for kind in every_error() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_kind_has_its_status_and_bodies(kind: type[DspexRayError]) -> None:
    error = kind("what is", field="here")
    assert (status_of(error), openai_status(error)) == STATUSES[kind.code]
    assert problem(error, "/x", "r") == {
        "type": f"urn:dspex-ray:{kind.code}",
        "title": kind.__name__,
        "status": STATUSES[kind.code][0],
        "detail": "what is",
        "instance": "/x",
        "code": kind.code,
        "request_id": "r",
        "details": {"field": "here"},
    }
    body = openai_error(error)["error"]
    assert (body["message"], body["param"], body["code"]) == ("what is", "here", kind.code)
    assert body["type"].endswith("_error")
    assert ("Retry-After" in headers_of(error)) == (status_of(error) == 503)


def test_codes_are_unique_and_all_listed() -> None:
    assert sorted(kind.code for kind in OURS) == sorted(STATUSES)


def test_a_key_without_the_scope_is_forbidden_not_unknown() -> None:
    error = errors.Denied("no", reason="forbidden")
    assert status_of(error) == 403
    assert headers_of(error) == {}
    assert headers_of(errors.Denied("no")) == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(("wait_s", "header"), [(0.01, "1"), (1.2, "2"), (30, "30")])
def test_retry_after_is_whole_seconds_and_never_too_early(wait_s: float, header: str) -> None:
    error = errors.RateLimited("slower", retry_after_s=wait_s)
    assert headers_of(error) == {"Retry-After": header}
