"""Why a call to a model failed: any exception of a leaf engine as one small value, keys removed."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dspex_ray.core.errors import (
    DeadlineExceeded,
    Denied,
    DspexRayError,
    Invalid,
    RateLimited,
    TooLarge,
    Unavailable,
)
from dspex_ray.core.masking import MASK
from dspex_ray.models.model import ErrorClass

MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """`message` is one line of at most 300 characters. `status` is the provider's HTTP status."""

    error_class: ErrorClass
    message: str
    retry_after_s: float | None = None
    status: int | None = None


def classify(exc: BaseException) -> Failure:
    """What `exc` means for retries and for the health of the model; never raises."""
    return Failure(
        error_class=_error_class(exc),
        message=scrub(_text(exc)),
        retry_after_s=_retry_after(exc),
        status=_integer(getattr(exc, "status", None)),
    )


def scrub(text: str) -> str:
    """The first paragraph as one line, key-like runs masked, cut to 300 characters.

    lm15 puts its advice into further paragraphs, and quotes replies that it cannot read, which
    may be content; some providers repeat the key they were sent.
    """
    line = " ".join(text.strip().split("\n\n", 1)[0].split())
    line = line.partition(" Body starts: ")[0]
    for pattern, mark in _SECRETS:
        line = pattern.sub(mark, line)
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"


_SECRETS = (
    (re.compile(r"://[^/\s@]+@"), f"://{MASK}@"),
    (re.compile(r"\b(bearer)\s+[^\s,;'\"]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(
            r"\b([\w-]*(?:api[ _-]?key|token|secret|password|credential|authorization)"
            r"(?: provided)?)([\"']?\s*[:=]\s*[\"']?)[^\s,;'\"&]+",
            re.IGNORECASE,
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"([?&]key=)[^\s&'\"]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(?:sk|pk|rk|hf|gsk|xai|AIza|ghp|co)[-_]?[A-Za-z0-9][\w*-]{11,}"), MASK),
    (re.compile(r"(?<![\w-])(?=[^\s]*\d)[A-Za-z0-9_+/=]{32,}"), MASK),
)


def _text(exc: BaseException) -> str:
    message = getattr(exc, "message", None)
    text = message if isinstance(message, str) and message else str(exc)
    return text or type(exc).__name__


def _error_class(exc: BaseException) -> ErrorClass:
    for kinds, found in (*_lm15_classes(), *_CLASSES):
        if isinstance(exc, kinds):
            if found is ErrorClass.MALFORMED:
                return _by_status(_integer(getattr(exc, "status", None)))
            return found
    return ErrorClass.UNEXPECTED


def _by_status(status: int | None) -> ErrorClass:
    """For errors without a class of their own: no status means that the reply was unreadable."""
    if status is None or status < 400:
        return ErrorClass.MALFORMED
    return ErrorClass.SERVER if status >= 500 else ErrorClass.INVALID_REQUEST


def _retry_after(exc: BaseException) -> float | None:
    for name in ("retry_after", "retry_after_s"):
        value = getattr(exc, name, None)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and value >= 0
        ):
            return float(value)
    return None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_Classes = Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], ErrorClass]]

# The first that fits wins. Our own errors come from models hosted by this instance.
_CLASSES: _Classes = (
    (asyncio.CancelledError, ErrorClass.CANCELLED),
    ((TimeoutError, DeadlineExceeded), ErrorClass.TIMEOUT),
    (RateLimited, ErrorClass.RATE_LIMIT),
    (Unavailable, ErrorClass.SERVER),
    ((Invalid, TooLarge), ErrorClass.INVALID_REQUEST),
    (Denied, ErrorClass.AUTH),
    (DspexRayError, ErrorClass.UNEXPECTED),
    ((OSError, EOFError), ErrorClass.TRANSPORT),
    (ImportError, ErrorClass.CONFIGURATION),
)


@cache
def _lm15_classes() -> _Classes:
    """Children before parents. Imported at the first failure: dspy takes seconds to import."""
    from json import JSONDecodeError

    from dspy import lm15

    return (
        (lm15.ContextLengthError, ErrorClass.CONTEXT_LENGTH),
        (lm15.UnsupportedModelError, ErrorClass.UNSUPPORTED),
        (lm15.AuthError, ErrorClass.AUTH),
        (lm15.BillingError, ErrorClass.BILLING),
        (lm15.RateLimitError, ErrorClass.RATE_LIMIT),
        (lm15.InvalidRequestError, ErrorClass.INVALID_REQUEST),
        (lm15.TimeoutError, ErrorClass.TIMEOUT),
        (lm15.ServerError, ErrorClass.SERVER),
        (lm15.CapabilityError, ErrorClass.UNSUPPORTED),
        (lm15.ConfigurationError, ErrorClass.CONFIGURATION),
        ((lm15.TransportError, lm15.LockTimeoutError), ErrorClass.TRANSPORT),
        ((lm15.StreamAssemblyError, lm15.ProviderError), ErrorClass.MALFORMED),
        ((JSONDecodeError, UnicodeDecodeError), ErrorClass.MALFORMED),
    )
