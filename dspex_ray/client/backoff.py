"""Whether a failed call is worth another try, and after how long. Pure."""

from __future__ import annotations

import random

from dspex_ray.core.errors import DspexRayError, ProviderDown

BASE_S = 0.25
MAX_S = 8.0


def is_transient(error: DspexRayError) -> bool:
    """429, 503 and connections that failed. Not ProviderDown: the platform has tried all models."""
    return error.retryable and not isinstance(error, ProviderDown)


def wait_s(attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
    """Seconds before the next try; `attempt` counts the failed ones, from 1.

    Exponential with jitter, 8 s at most; a longer Retry-After always wins, and gets a tenth of
    jitter on top, so that those who were told the same do not come back together.
    """
    backoff = min(MAX_S, BASE_S * 2.0 ** (attempt - 1)) * rng.uniform(0.5, 1.0)
    if retry_after_s is None:
        return backoff
    return max(backoff, retry_after_s * rng.uniform(1.0, 1.1))
