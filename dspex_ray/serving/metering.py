"""What the gateway's records and state mean as metrics."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from dspex_ray.core import errors
from dspex_ray.core.clock import Clock
from dspex_ray.models.model import ModelStatus
from dspex_ray.routing.breaker import Breakers, Phase
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.telemetry import metrics
from dspex_ray.telemetry.metrics import Levels, Meters, Total
from dspex_ray.traces.model import ExecutionRecord

P = ParamSpec("P")
T = TypeVar("T")

_BREAKER_VALUES = {Phase.CLOSED: 0.0, Phase.HALF_OPEN: 1.0, Phase.OPEN: 2.0}
_CLIENT_ERRORS = (
    errors.Invalid,
    errors.NotFound,
    errors.Conflict,
    errors.Denied,
    errors.TooLarge,
    errors.LimitReached,
)


class Metering:
    """Of one gateway. `executed` is on the request path: it looks nothing up but dictionaries."""

    def __init__(self, meters: Meters, configuration: Configuration) -> None:
        self._meters = meters
        self._configuration = configuration
        self._lost = Total(meters, metrics.RECORDS_LOST)
        self._breakers = Levels(meters, metrics.BREAKER)
        self._healthy = Levels(meters, metrics.MODEL_HEALTHY, gone=1.0)

    def executed(self, record: ExecutionRecord) -> None:
        """Once for each record."""
        meters, program = self._meters, record.program or ""
        version = "" if record.version is None else str(record.version)
        status, code = status_class(record.error_code), record.error_code or "ok"
        meters.add(metrics.REQUESTS, 1, record.endpoint, program, version, status, code)
        meters.observe(metrics.REQUEST_SECONDS, record.duration_ms / 1000, record.endpoint, program)
        if record.overhead_ms is not None:
            meters.observe(
                metrics.OVERHEAD_SECONDS, record.overhead_ms / 1000, record.endpoint, program
            )
        for call in record.lm_calls:
            self._called(call)

    def shed(self) -> None:
        self._meters.add(metrics.SHED, 1)

    def waited_for_thread(self, seconds: float) -> None:
        self._meters.observe(metrics.THREAD_WAIT_SECONDS, seconds)

    def sample(
        self, *, inflight: int, records_lost: int, breakers: Breakers, now: datetime, at: float
    ) -> None:
        """The replica's state, for a timer. `now` and `at`: the same moment, `at` monotonic."""
        held, meters = self._configuration.snapshot, self._meters
        meters.set(metrics.INFLIGHT, inflight)
        meters.set(metrics.SNAPSHOT_VERSION, held.version)
        if held.version:
            meters.set(metrics.SNAPSHOT_AGE_SECONDS, (now - held.taken_at).total_seconds())
        meters.set(metrics.DATABASE_UP, float(self._configuration.database_reachable))
        self._lost.tell(records_lost)
        meters.set(metrics.LOST_WITH_NODES, self._configuration.lost_with_nodes)
        self._breakers.tell(
            {m.name: _BREAKER_VALUES[breakers.phase(m.id, at)] for m in held.models.values()}
        )
        self._healthy.tell(
            {m.name: float(m.status is not ModelStatus.ERROR) for m in held.models.values()}
        )

    def _called(self, call: LmCall) -> None:
        if call.chosen is not None:
            strategy = "" if call.strategy is None else call.strategy.value
            self._meters.add(metrics.LM_CALLS, 1, call.chosen, strategy, _answered(call))
            tried_ms = sum(attempt.latency_ms for attempt in call.attempts)
            waited_ms = max(0.0, call.latency_ms - tried_ms)
            self._meters.observe(metrics.LM_WAIT_SECONDS, waited_ms / 1000, call.chosen)
        for attempt in call.attempts:
            if not attempt.cached:
                self._attempted(attempt)

    def _attempted(self, attempt: Attempt) -> None:
        meters = self._meters
        model = self._configuration.snapshot.models.get(attempt.model_id)
        of = (attempt.model, "" if model is None else model.provider.value)
        if attempt.outcome != "ok":
            error = "breaker_open" if attempt.error_class is None else attempt.error_class.value
            meters.add(metrics.ATTEMPT_ERRORS, 1, *of, error)
        if not attempt.made:
            return
        meters.observe(metrics.ATTEMPT_SECONDS, attempt.latency_ms / 1000, *of, attempt.outcome)
        if attempt.first_token_ms is not None:
            meters.observe(metrics.FIRST_TOKEN_SECONDS, attempt.first_token_ms / 1000, *of)
        if attempt.outcome == "ok":
            meters.add(metrics.TOKENS, attempt.prompt_tokens or 0, *of, "input")
            meters.add(metrics.TOKENS, attempt.completion_tokens or 0, *of, "output")
            if attempt.cost_usd is None:
                meters.add(metrics.UNPRICED, 1, *of)
            else:
                meters.add(metrics.COST, float(attempt.cost_usd), *of)


class TimedThreads(ThreadPoolExecutor):
    """Tells `waited` the seconds that each piece of work waited for its thread."""

    def __init__(
        self, threads: int, name: str, clock: Clock, waited: Callable[[float], None]
    ) -> None:
        super().__init__(threads, name)
        self._clock = clock
        self._waited = waited

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        asked = self._clock.monotonic()

        def begun() -> T:
            self._waited(self._clock.monotonic() - asked)
            return work(*args, **kwargs)

        return super().submit(begun)


def _answered(call: LmCall) -> str:
    """By whom, as dspex_lm_calls_total says it."""
    if call.answered_by is None:
        return "none"
    if call.attempts and call.attempts[-1].cached:
        return "cached"
    return "fallback" if call.fallback else "chosen"


def status_class(code: str | None) -> str:
    """2xx, 4xx, 5xx, or 499 for a client that left, by an error's code (None: none)."""
    if code is None:
        return "2xx"
    if code == "cancelled":
        return "499"
    kind: type[Any] = errors.BY_CODE.get(code, errors.DspexRayError)
    return "4xx" if issubclass(kind, _CLIENT_ERRORS) else "5xx"
