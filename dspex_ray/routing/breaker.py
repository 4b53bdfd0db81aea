"""The circuit breaker of a model: after a row of failures it is left alone, then probed once.

closed -> open after so many failures in a row -> half-open after a cooldown: exactly one probe
-> closed when it succeeds, open again for the same cooldown when it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Lock

from dspex_ray.core.ids import ModelId
from dspex_ray.models.model import ErrorClass
from dspex_ray.settings import RoutingSettings


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"  #: says nothing about the provider; a probe is free again


# A rate limit has its hold-off; a refused key, bill or request is a living provider's answer.
_FAULTS = frozenset(
    {ErrorClass.TIMEOUT, ErrorClass.SERVER, ErrorClass.TRANSPORT, ErrorClass.MALFORMED}
)


def verdict_on(error_class: ErrorClass | None) -> Verdict:
    """What an outcome says about the provider's health; None is an answer."""
    if error_class is None:
        return Verdict.SUCCESS
    return Verdict.FAILURE if error_class in _FAULTS else Verdict.NEUTRAL


@dataclass(frozen=True, slots=True)
class Breaker:
    """Times are monotonic seconds. Closed while `opened_at` is None."""

    failures: int = 0
    opened_at: float | None = None
    probing: bool = False

    def phase(self, now: float, open_s: float) -> Phase:
        if self.opened_at is None:
            return Phase.CLOSED
        return Phase.OPEN if now - self.opened_at < open_s else Phase.HALF_OPEN

    def admits(self, now: float, open_s: float) -> bool:
        phase = self.phase(now, open_s)
        return phase is Phase.CLOSED or (phase is Phase.HALF_OPEN and not self.probing)

    def settled(self, verdict: Verdict, *, probe: bool, now: float, limit: int) -> Breaker:
        """After the outcome of an admitted call; `limit` failures in a row open it.

        While it is open or half-open only the probe counts: calls from before know nothing new.
        """
        if self.opened_at is not None:
            return self._probed(verdict, now) if probe else self
        if verdict is Verdict.NEUTRAL:
            return self
        failures = self.failures + 1 if verdict is Verdict.FAILURE else 0
        return Breaker(failures, opened_at=now if failures >= limit else None)

    def _probed(self, verdict: Verdict, now: float) -> Breaker:
        if verdict is Verdict.SUCCESS:
            return Breaker()
        if verdict is Verdict.FAILURE:
            return Breaker(self.failures, opened_at=now)
        return replace(self, probing=False)


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one call; settle it exactly once."""

    model_id: ModelId
    probe: bool


class Breakers:
    """The breakers of all models in this process; safe to share between threads."""

    def __init__(self, settings: RoutingSettings) -> None:
        self._limit = settings.breaker_failures
        self._open_s = settings.breaker_open_s
        self._breakers: dict[ModelId, Breaker] = {}
        self._lock = Lock()

    def enter(self, model_id: ModelId, now: float) -> Permit | None:
        """Leave to call, or None: the breaker is open, or its one probe is under way."""
        with self._lock:
            breaker = self._breakers.get(model_id, Breaker())
            if not breaker.admits(now, self._open_s):
                return None
            probe = breaker.opened_at is not None
            if probe:
                self._breakers[model_id] = replace(breaker, probing=True)
            return Permit(model_id, probe)

    def settle(self, permit: Permit, verdict: Verdict, now: float) -> None:
        with self._lock:
            before = self._breakers.get(permit.model_id, Breaker())
            self._breakers[permit.model_id] = before.settled(
                verdict, probe=permit.probe, now=now, limit=self._limit
            )

    def admits(self, model_id: ModelId, now: float) -> bool:
        """Whether `enter` would give leave now; takes nothing."""
        return self._breakers.get(model_id, Breaker()).admits(now, self._open_s)

    def phase(self, model_id: ModelId, now: float) -> Phase:
        return self._breakers.get(model_id, Breaker()).phase(now, self._open_s)

    def closed_in(self, model_id: ModelId, now: float) -> float:
        """Seconds until the next probe may be sent; 0 when it may be now or none is needed."""
        opened_at = self._breakers.get(model_id, Breaker()).opened_at
        return 0.0 if opened_at is None else max(0.0, opened_at + self._open_s - now)
