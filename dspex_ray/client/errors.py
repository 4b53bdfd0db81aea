"""From what came over the wire, or did not, to the same error classes as the platform's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from dspex_ray.core import errors

# For answers that are not ours: Serve's and proxies' own.
_BY_STATUS: dict[int, type[errors.DspexRayError]] = {
    429: errors.RateLimited,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
_MAX_RETRY_AFTER_S = 86_400.0


def error_of(status: int, headers: Mapping[str, str], content: bytes) -> errors.DspexRayError:
    """The error that a response carries: problem+json, an OpenAI body, or by its status."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    error = error_in(body)
    if error is None:
        kind = _BY_STATUS.get(status, errors.DspexRayError)
        error = kind(f"HTTP {status} with a body that is not understood", status=status)
    if error.retry_after_s is None:
        after = retry_after_s(headers.get("retry-after"))
        if after is not None:
            error.details["retry_after_s"] = after
    return error


def error_in(body: Any) -> errors.DspexRayError | None:
    """The error that a JSON body is: an RFC 9457 problem, or OpenAI's `error`; else None."""
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    if isinstance(inner, dict):
        code, message, details = inner.get("code"), inner.get("message"), inner.get("details")
    else:
        code, message, details = body.get("code"), body.get("detail"), body.get("details")
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    error = errors.BY_CODE.get(code, errors.DspexRayError)(message)
    error.details = dict(details) if isinstance(details, dict) else {}
    if code not in errors.BY_CODE:
        error.details.setdefault("code", code)
    return error


def of_transport(failure: httpx.HTTPError, url: str) -> errors.DspexRayError:
    """A call that got no answer. The server may have acted on it all the same."""
    what = str(failure) or type(failure).__name__
    if isinstance(failure, httpx.ReadTimeout | httpx.WriteTimeout):
        return errors.DeadlineExceeded(f"{url} has not answered in time")
    if isinstance(failure, httpx.TransportError):
        return errors.Unavailable(f"{url} cannot be reached: {what}")
    return not_understood(url, what)


def not_understood(url: str, what: str) -> errors.DspexRayError:
    """An answer that is not what the API says: another server, or one of another age."""
    return errors.DspexRayError(f"{url} answered something that is not understood: {what}")


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, a day at most; None for none, and for the date form."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds >= 0 else None
