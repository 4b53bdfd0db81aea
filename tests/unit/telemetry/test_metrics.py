"""The metrics are named as Prometheus advises, and their values arrive under their labels."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest

from dspex_ray.telemetry import metrics
from dspex_ray.telemetry.metrics import (
    EVERY,
    Levels,
    MemoryMeters,
    Meters,
    Metric,
    NoMeters,
    RayMeters,
    Total,
)

UNITS = ("_seconds", "_bytes")
#: gauges that count or are a state: they have no unit
UNITLESS = {
    "dspex_inflight_requests",
    "dspex_breaker_state",
    "dspex_model_healthy",
    "dspex_snapshot_version",
    "dspex_database_reachable",
    "dspex_records_lost_with_nodes",
    "dspex_spool_segments",
    "dspex_spool_bad_segments",
    "dspex_jobs_waiting",
}
#: bounded by what operators configure, or closed sets
LABELS = {
    "answered",
    "code",
    "direction",
    "endpoint",
    "error",
    "model",
    "outcome",
    "program",
    "provider",
    "queue",
    "status",
    "strategy",
    "version",
}


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_names_and_labels_follow_the_practice(metric: Metric) -> None:
    assert re.fullmatch(r"dspex_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind != "counter" and metric.name not in UNITLESS:
        assert metric.name.endswith(UNITS)
    assert set(metric.labels) <= LABELS
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_each_metric_is_there_once() -> None:
    assert len({metric.name for metric in EVERY}) == len(EVERY) > 25


def test_values_arrive_under_their_labels() -> None:
    meters = MemoryMeters()
    meters.add(metrics.TOKENS, 3, "m", "openai", "input")
    meters.add(metrics.TOKENS, 4, "m", "openai", "input")
    meters.set(metrics.INFLIGHT, 2)
    meters.set(metrics.INFLIGHT, 1)
    meters.observe(metrics.LM_WAIT_SECONDS, 0.5, "m")
    assert meters.counters == {("dspex_lm_tokens_total", "m", "openai", "input"): 7}
    assert meters.gauges == {("dspex_inflight_requests",): 1}
    assert meters.observed == {("dspex_lm_call_wait_seconds", "m"): [0.5]}
    with pytest.raises(ValueError, match="zip"):
        meters.add(metrics.TOKENS, 1, "m")


def test_a_level_that_is_no_longer_named_falls() -> None:
    meters = MemoryMeters()
    levels = Levels(meters, metrics.BREAKER)
    levels.tell({"a": 2.0, "b": 0.0})
    levels.tell({"b": 1.0})
    assert meters.gauges == {("dspex_breaker_state", "a"): 0.0, ("dspex_breaker_state", "b"): 1.0}


def test_a_total_becomes_increments() -> None:
    meters = MemoryMeters()
    total = Total(meters, metrics.RECORDS_LOST)
    for count in (0, 3, 3, 5):
        total.tell(count)
    assert meters.counters == {("dspex_records_lost_total",): 5}


def test_where_nobody_looks_nothing_is_kept() -> None:
    meters: Meters = NoMeters()
    meters.add(metrics.SHED, 1)
    meters.set(metrics.INFLIGHT, 1)
    meters.observe(metrics.THREAD_WAIT_SECONDS, 1)
    assert vars(meters) == {}


class Series:
    """Stands for Ray's Counter, Gauge and Histogram: keeps what it is told."""

    told: ClassVar[list[tuple[str, str, float, dict[str, str]]]] = []

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options

    def _tell(self, how: str, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.options["tag_keys"])
        self.told.append((how, self.name, value, tags))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray refuses any other
        self._tell("inc", value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._tell("set", value, tags)

    def observe(self, value: float, tags: dict[str, str]) -> None:
        assert self.options["boundaries"]
        self._tell("observe", value, tags)


def test_ray_is_told_counts_once_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", Series)
    monkeypatch.setattr(Series, "told", [])
    meters = RayMeters()
    meters.add(metrics.TOKENS, 3, "m", "openai", "input")
    meters.add(metrics.TOKENS, 4, "m", "openai", "input")
    meters.add(metrics.TOKENS, 0, "m", "openai", "output")
    assert Series.told == []
    meters.set(metrics.BREAKER, 2, "m")
    meters.observe(metrics.LM_WAIT_SECONDS, 0.5, "m")
    for _ in range(2):
        meters.flush()
    tokens = {"model": "m", "provider": "openai", "direction": "input"}
    assert Series.told == [
        ("set", "dspex_breaker_state", 2, {"model": "m"}),
        ("observe", "dspex_lm_call_wait_seconds", 0.5, {"model": "m"}),
        ("inc", "dspex_lm_tokens_total", 7, tokens),
    ]
