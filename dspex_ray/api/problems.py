"""The one table from kinds of error to HTTP, and the two bodies that carry them."""

from __future__ import annotations

import math
from typing import Any

from dspex_ray.core import errors

STATUS: dict[type[errors.DspexRayError], int] = {
    errors.DspexRayError: 500,
    errors.Invalid: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Stale: 412,
    errors.Denied: 401,
    errors.TooLarge: 413,
    errors.LimitReached: 429,
    errors.Unavailable: 503,
    errors.ProviderDown: 502,
    errors.Overloaded: 503,
    errors.DeadlineExceeded: 504,
    errors.OutputInvalid: 502,
}


def status_of(error: errors.DspexRayError) -> int:
    """The nearest kind's status; a key without the scope is 403 rather than 401."""
    if isinstance(error, errors.Denied) and error.details.get("reason") == "forbidden":
        return 403
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def headers_of(error: errors.DspexRayError) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, and the challenge of a 401."""
    headers: dict[str, str] = {}
    status = status_of(error)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif status == 503:
        headers["Retry-After"] = "1"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def problem(error: errors.DspexRayError, instance: str, request_id: str | None) -> dict[str, Any]:
    """RFC 9457 problem+json, with our `code` and details beside the standard members."""
    return {
        "type": f"urn:dspex-ray:{error.code}",
        "title": type(error).__name__,
        "status": status_of(error),
        "detail": error.message,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
        **{"details": error.details},
    }


_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def openai_status(error: errors.DspexRayError) -> int:
    """OpenAI answers 400 where the control plane says 422."""
    status = status_of(error)
    return 400 if status == 422 else status


def openai_error(error: errors.DspexRayError) -> dict[str, Any]:
    """The error body that OpenAI's SDKs understand."""
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(openai_status(error), "server_error"),
            "param": error.details.get("field"),
            "code": error.code,
            "details": error.details,
        }
    }
