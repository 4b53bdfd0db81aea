"""Requests a minute per model, and the hold-off that a provider's Retry-After asks for.

Every replica keeps to its share of a model's limit, without asking the others: over all replicas
the limit holds on average, and a replica that is busier than the rest may not use their share.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from threading import Lock

from dspex_ray.core.ids import ModelId
from dspex_ray.models.model import Model

# A provider that asks for more is asked again after this: its header must not retire a model.
MAX_HOLD_OFF_S = 3600.0
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class LimitHit:
    """No call now; `retry_after_s` seconds (over 0) until one may be made."""

    reason: str
    retry_after_s: float


@dataclass(slots=True)
class RateWindow:
    """A sliding window: never more than its number of calls in any window of its length.

    A rate with a fraction, or below one a minute, is as many whole calls in the window that makes
    them that rate: 0.5 a minute is one call in two minutes. `per_minute` is over 0.
    """

    taken: deque[float] = field(default_factory=deque)  #: the last calls, as many as fit a window

    def wait_s(self, now: float, per_minute: float) -> float:
        """Seconds until a call is free; 0 = now."""
        calls = _whole_calls(per_minute)
        if len(self.taken) < calls:
            return 0.0
        return max(self.taken[-calls] + _MINUTE_S * calls / per_minute - now, 0.0)

    def left(self, now: float, per_minute: float) -> int:
        """Calls that are free now."""
        calls = _whole_calls(per_minute)
        since = now - _MINUTE_S * calls / per_minute
        return max(0, calls - sum(at > since for at in self.taken))

    def take(self, now: float, per_minute: float) -> None:
        self.taken.append(now)
        while len(self.taken) > _whole_calls(per_minute):
            self.taken.popleft()


class Limits:
    """Limits and hold-offs of all models in this process; safe to share between threads.

    `share` is this replica's part of every limit: 1 / replicas.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._windows: dict[ModelId, RateWindow] = {}
        self._held_until: dict[ModelId, float] = {}
        self._lock = Lock()
        self.share = share

    @property
    def share(self) -> float:
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: must be over 0 and at most 1")
        self._share = share

    def take(self, model: Model, now: float) -> LimitHit | None:
        """Count one call; or what forbids it, and then nothing is counted."""
        with self._lock:
            hit = self._hit(model, now)
            if hit is None and model.requests_per_minute is not None:
                window = self._windows.setdefault(model.id, RateWindow())
                window.take(now, model.requests_per_minute * self._share)
            return hit

    def admits(self, model: Model, now: float) -> bool:
        """Whether `take` would count a call now; counts nothing."""
        with self._lock:
            return self._hit(model, now) is None

    def hold_off(self, model_id: ModelId, seconds: float, now: float) -> None:
        """No call for so long. A longer hold-off always wins over a shorter one."""
        until = now + min(max(seconds, 0.0), MAX_HOLD_OFF_S)
        with self._lock:
            self._held_until[model_id] = max(until, self._held_until.get(model_id, until))

    def held_for(self, model_id: ModelId, now: float) -> float:
        """Seconds of hold-off that are left; 0 = none."""
        return max(0.0, self._held_until.get(model_id, now) - now)

    def _hit(self, model: Model, now: float) -> LimitHit | None:
        held = self.held_for(model.id, now)
        if held > 0:
            return LimitHit("the provider asked to wait", held)
        if model.requests_per_minute is None:
            return None
        window = self._windows.get(model.id, RateWindow())
        wait = window.wait_s(now, model.requests_per_minute * self._share)
        return LimitHit("requests_per_minute reached", wait) if wait > 0 else None


def _whole_calls(per_minute: float) -> int:
    return max(1, math.floor(per_minute))
