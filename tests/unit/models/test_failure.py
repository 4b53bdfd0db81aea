"""classify: every exception of a leaf engine has a meaning, and no key gets out."""

from __future__ import annotations

import asyncio
import json

import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import DeadlineExceeded, Denied, Invalid, Overloaded, RateLimited
from dspex_ray.models.failure import Failure, classify, scrub
from dspex_ray.models.model import ErrorClass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lm15.AuthError("no"), "auth"),
        (lm15.BillingError("no"), "billing"),
        (lm15.RateLimitError("no"), "rate_limit"),
        (lm15.InvalidRequestError("no"), "invalid_request"),
        (lm15.ContextLengthError("no"), "context_length"),
        (lm15.UnsupportedModelError("no"), "unsupported"),
        (lm15.UnsupportedFeatureError("no"), "unsupported"),
        (lm15.TimeoutError("no"), "timeout"),
        (lm15.ServerError("no"), "server"),
        (lm15.TransportError("no"), "transport"),
        (lm15.LockTimeoutError("no"), "transport"),
        (lm15.StreamAssemblyError("no"), "malformed"),
        (lm15.NotConfiguredError("no"), "configuration"),
        (lm15.UnknownModelError("no"), "configuration"),
        (lm15.ProviderError("no"), "malformed"),
        (lm15.ProviderError("no", status=599), "server"),
        (lm15.ProviderError("no", status=451), "invalid_request"),
        (TimeoutError(), "timeout"),
        (asyncio.CancelledError(), "cancelled"),
        (ConnectionResetError("no"), "transport"),
        (EOFError(), "transport"),
        (json.JSONDecodeError("no", "{", 1), "malformed"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), "malformed"),
        (ModuleNotFoundError("no"), "configuration"),
        (ValueError("no"), "unexpected"),
        (RateLimited("no"), "rate_limit"),
        (Overloaded("no"), "server"),
        (DeadlineExceeded("no"), "timeout"),
        (Invalid("no"), "invalid_request"),
        (Denied("no"), "auth"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_classes(error: BaseException, expected: str) -> None:
    assert classify(error).error_class == expected


def test_the_whole_of_it() -> None:
    error = lm15.RateLimitError("slow down", status=429, retry_after=7)
    assert classify(error) == Failure(ErrorClass.RATE_LIMIT, "slow down", 7.0, 429)


def test_our_own_retry_after() -> None:
    assert classify(Overloaded("busy", retry_after_s=2)).retry_after_s == 2.0


@pytest.mark.parametrize("wish", [float("inf"), float("nan"), -1.0])
def test_a_senseless_retry_after_is_none(wish: float) -> None:
    assert classify(lm15.ServerError("x", retry_after=wish)).retry_after_s is None


def test_an_empty_message_is_the_class() -> None:
    assert classify(TimeoutError()).message == "TimeoutError"


def test_a_reply_that_cannot_be_read_is_not_quoted() -> None:
    said = "the reply (HTTP 200, 21 bytes) is not JSON: Extra data. Body starts: 'Dear Ms Miller'."
    assert classify(lm15.ProviderError(said)).message == (
        "the reply (HTTP 200, 21 bytes) is not JSON: Extra data."
    )


SECRET = "s3cretQ9vL2mX7pK4wZ8"


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {SECRET}. You can find your key online",
        f"Incorrect key sk-proj-{SECRET}",
        f"hf_{SECRET} is revoked",
        f"Authorization: Bearer {SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"https://user:{SECRET}@host/v1 refused",
        f"GET https://host/v1?key={SECRET}&alt=sse",
        f"x-api-key={SECRET}",
        f"unknown credential {SECRET}{SECRET}",
    ],
)
def test_keys_are_masked(text: str) -> None:
    assert SECRET not in scrub(text)
    assert "***" in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "model claude-3-5-sonnet-20241022 is overloaded",
        "This model's maximum context length is 8192 tokens, you asked for 9000",
        "max_tokens must be at most 4096",
        "request 0192f3a4-5b6c-7d8e-9f00-112233445566 failed",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert scrub(text) == text


@given(st.text(max_size=2000))
def test_one_short_line(text: str) -> None:
    line = scrub(text)
    assert len(line) <= 300
    assert "\n" not in line
