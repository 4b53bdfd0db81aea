"""Every metric of the platform, and where its values go: Ray's endpoint, or memory in tests.

Names, units and labels as Prometheus advises; Ray puts `ray_` before each name. A label's values
are what an operator configured (programs, versions, models) or a closed set, never a key, a user
or a request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from threading import Lock
from typing import Any, Literal, NamedTuple, Protocol

_Key = tuple[str, tuple[str, ...]]  # of one series: the metric's name, the values of its labels


class Metric(NamedTuple):
    """`buckets`: upper bounds of a histogram, in the metric's unit."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_WAIT_S = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Metric(
    "counter",
    "dspex_requests_total",
    "Executions that ended. status: 2xx, 4xx, 5xx, or 499 for a client that left. code: the"
    " error's, or ok. program: empty for direct model calls.",
    ("endpoint", "program", "version", "status", "code"),
)
REQUEST_SECONDS = Metric(
    "histogram",
    "dspex_request_duration_seconds",
    "From the request's headers to its record.",
    ("endpoint", "program"),
    _REQUEST_S,
)
OVERHEAD_SECONDS = Metric(
    "histogram",
    "dspex_request_overhead_seconds",
    "Of the duration, what was not spent waiting for models.",
    ("endpoint", "program"),
    _OVERHEAD_S,
)
SHED = Metric(
    "counter", "dspex_shed_requests_total", "Requests refused because the replica was full."
)
INFLIGHT = Metric("gauge", "dspex_inflight_requests", "Executions under way in the replica.")
THREAD_WAIT_SECONDS = Metric(
    "histogram",
    "dspex_thread_wait_seconds",
    "How long a program with a sync forward waited for one of the replica's threads.",
    (),
    _WAIT_S,
)

LM_CALLS = Metric(
    "counter",
    "dspex_lm_calls_total",
    "Calls of predictors. model: the one chosen first. answered: chosen, fallback,"
    " cached (from memory), none.",
    ("model", "strategy", "answered"),
)
LM_WAIT_SECONDS = Metric(
    "histogram",
    "dspex_lm_call_wait_seconds",
    "Of a call, what no attempt took: waits before retries and for rate limits.",
    ("model",),
    _WAIT_S,
)
ATTEMPT_SECONDS = Metric(
    "histogram",
    "dspex_lm_attempt_duration_seconds",
    "One attempt on one model. outcome: ok, failed, cancelled.",
    ("model", "provider", "outcome"),
    _REQUEST_S,
)
ATTEMPT_ERRORS = Metric(
    "counter",
    "dspex_lm_attempt_errors_total",
    "Attempts without an answer, by class of error; skipped ones (open breaker, limit) included.",
    ("model", "provider", "error"),
)
FIRST_TOKEN_SECONDS = Metric(
    "histogram",
    "dspex_lm_time_to_first_token_seconds",
    "Of streamed attempts.",
    ("model", "provider"),
    _REQUEST_S,
)
TOKENS = Metric(
    "counter",
    "dspex_lm_tokens_total",
    "Tokens of answered attempts, as far as they are known. direction: input, output.",
    ("model", "provider", "direction"),
)
COST = Metric(
    "counter",
    "dspex_lm_cost_usd_total",
    "US dollars, of the answers whose price is known.",
    ("model", "provider"),
)
UNPRICED = Metric(
    "counter",
    "dspex_lm_unpriced_answers_total",
    "Answers of unknown cost, which dspex_lm_cost_usd_total lacks.",
    ("model", "provider"),
)
BREAKER = Metric(
    "gauge",
    "dspex_breaker_state",
    "The replica's circuit breaker of a model: 0 closed, 1 half-open, 2 open.",
    ("model",),
)
MODEL_HEALTHY = Metric(
    "gauge",
    "dspex_model_healthy",
    "0 when health checks have taken the model out (status error), else 1.",
    ("model",),
)

SNAPSHOT_AGE_SECONDS = Metric(
    "gauge",
    "dspex_snapshot_age_seconds",
    "Since the replica last read the configuration; read anew every few seconds.",
)
SNAPSHOT_VERSION = Metric(
    "gauge", "dspex_snapshot_version", "The configuration that the replica serves; 0 = none yet."
)
DATABASE_UP = Metric(
    "gauge", "dspex_database_reachable", "Whether the replica's last look at Postgres succeeded."
)
RECORDS_LOST = Metric(
    "counter", "dspex_records_lost_total", "Records that the spool had no room for."
)
LOST_WITH_NODES = Metric(
    "gauge",
    "dspex_records_lost_with_nodes",
    "Undrained records on disks of nodes that are gone, at least; the same from every replica.",
)

SPOOL_BYTES = Metric("gauge", "dspex_spool_bytes", "What this node has yet to drain.")
SPOOL_SEGMENTS = Metric("gauge", "dspex_spool_segments", "Segments this node has yet to drain.")
SPOOL_AGE_SECONDS = Metric(
    "gauge", "dspex_spool_oldest_age_seconds", "Age of the oldest of them; 0 = none."
)
SPOOL_BAD = Metric(
    "gauge", "dspex_spool_bad_segments", "Segments set aside: some record could not be read."
)
RECORDS_DRAINED = Metric(
    "counter", "dspex_records_drained_total", "Records that this node took to Postgres."
)
JOBS_WAITING = Metric("gauge", "dspex_jobs_waiting", "Jobs that are due and wait.", ("queue",))
JOBS_WAIT_SECONDS = Metric(
    "gauge",
    "dspex_jobs_oldest_wait_seconds",
    "How long the oldest of them has been due; 0 = none waits.",
    ("queue",),
)

EVERY = tuple(found for found in vars().copy().values() if isinstance(found, Metric))


class Meters(Protocol):
    """Takes values; `labels` are in the order of `metric.labels`. Thread-safe.

    Counts may wait for `flush`, which whoever owns the meters calls every second or so.
    """

    def add(self, metric: Metric, amount: float, *labels: str) -> None: ...

    def set(self, metric: Metric, value: float, *labels: str) -> None: ...

    def observe(self, metric: Metric, value: float, *labels: str) -> None: ...

    def flush(self) -> None: ...


class RayMeters:
    """Onto Ray's metrics endpoint of this node.

    A count costs 0.3 microseconds and, once a flush, what any other value costs each time: 3.
    """

    def __init__(self) -> None:
        from ray.util import metrics

        self._lock = Lock()
        self._counts: dict[_Key, float] = {}
        self._tags: dict[_Key, dict[str, str]] = {}
        self._series: dict[str, Any] = {}
        for metric in EVERY:
            given = {"description": metric.help, "tag_keys": metric.labels}
            if metric.kind == "histogram":
                series = metrics.Histogram(metric.name, boundaries=list(metric.buckets), **given)
            else:
                kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
                series = kind(metric.name, **given)
            self._series[metric.name] = series

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        if amount > 0:  # Ray refuses a counter's zero
            key = self._known(metric, labels)
            with self._lock:
                self._counts[key] = self._counts.get(key, 0.0) + amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self._series[metric.name].set(value, self._tags[self._known(metric, labels)])

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        self._series[metric.name].observe(value, self._tags[self._known(metric, labels)])

    def flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        for (name, labels), amount in counts.items():
            self._series[name].inc(amount, self._tags[name, labels])

    def _known(self, metric: Metric, labels: tuple[str, ...]) -> _Key:
        key = (metric.name, labels)
        if key not in self._tags:
            self._tags[key] = _tags(metric, labels)
        return key


class MemoryMeters:
    """In this process only, for tests: (name, *labels) to the sum, value or observations."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = defaultdict(float)
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observed: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._lock = Lock()

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        with self._lock:
            self.counters[metric.name, *_tags(metric, labels).values()] += amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        with self._lock:
            self.gauges[metric.name, *_tags(metric, labels).values()] = value

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        with self._lock:
            self.observed[metric.name, *_tags(metric, labels).values()].append(value)

    def flush(self) -> None:
        """Everything is told at once."""


class NoMeters:
    """Where nobody looks."""

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Forgotten."""

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Forgotten."""

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Forgotten."""

    def flush(self) -> None:
        """Nothing waits."""


class Levels:
    """A gauge with one label, told whole each time: what is no longer named falls to `gone`."""

    def __init__(self, meters: Meters, metric: Metric, *, gone: float = 0.0) -> None:
        self._meters = meters
        self._metric = metric
        self._gone = gone
        self._named: set[str] = set()

    def tell(self, values: Mapping[str, float]) -> None:
        for label in self._named - values.keys():
            self._meters.set(self._metric, self._gone, label)
        for label, value in values.items():
            self._meters.set(self._metric, value, label)
        self._named = set(values)


class Total:
    """Turns a count that somebody keeps into a counter's increments."""

    def __init__(self, meters: Meters, metric: Metric) -> None:
        self._meters = meters
        self._metric = metric
        self._told = 0

    def tell(self, count: int) -> None:
        self._meters.add(self._metric, count - self._told)
        self._told = count


def _tags(metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(metric.labels, labels, strict=True))
