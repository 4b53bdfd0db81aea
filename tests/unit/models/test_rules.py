from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from dspy.lm15 import Usage
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.models.model import (
    MODEL_MACHINE,
    HealthStatus,
    ModelStats,
    ModelStatus,
    Price,
    Provider,
)
from dspex_ray.models.rules import (
    after_check,
    cost_of,
    health_status,
    next_latency,
    push_outcomes,
    success_rate,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
PRICE = Price(
    prompt_usd_per_token=Decimal("0.000001"), completion_usd_per_token=Decimal("0.000002")
)
CACHED = PRICE.model_copy(update={"cached_prompt_usd_per_token": Decimal("0.0000001")})


@pytest.mark.parametrize(
    ("age", "rate", "expected"),
    [
        (None, 1.0, HealthStatus.UNKNOWN),
        (DAY + timedelta(microseconds=1), 1.0, HealthStatus.STALE),
        (DAY, 1.0, HealthStatus.HEALTHY),
        (timedelta(0), 0.9501, HealthStatus.HEALTHY),
        (timedelta(0), 0.95, HealthStatus.DEGRADED),
        (timedelta(0), 0.8001, HealthStatus.DEGRADED),
        (timedelta(0), 0.8, HealthStatus.UNHEALTHY),
        (timedelta(0), 0.0, HealthStatus.UNHEALTHY),
        (timedelta(0), None, HealthStatus.UNHEALTHY),
    ],
)
def test_health_status(age: timedelta | None, rate: float | None, expected: HealthStatus) -> None:
    checked = None if age is None else NOW - age
    stats = ModelStats(last_health_check=checked, success_rate=rate)
    assert health_status(stats, NOW) is expected


def test_latency_starts_with_the_first_sample_and_then_moves_by_a_tenth() -> None:
    assert next_latency(None, 120.0) == 120.0
    assert next_latency(100.0, 200.0) == pytest.approx(110.0)


@given(
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
)
def test_latency_stays_among_what_was_seen(start: float | None, samples: list[float]) -> None:
    current = start
    for sample in samples:
        current = next_latency(current, sample)
    seen = samples if start is None else [start, *samples]
    assert current is not None
    assert min(seen) - 1e-6 <= current <= max(seen) * (1 + 1e-9) + 1e-6


@given(st.lists(st.text("01", max_size=90), max_size=12))
def test_outcomes_keep_the_last_of_the_window(pushes: list[str]) -> None:
    recent = ""
    for new in pushes:
        recent = push_outcomes(recent, new)
    assert recent == "".join(pushes)[-200:]
    rate = success_rate(recent)
    assert rate is None if not recent else rate == recent.count("1") / len(recent)


@pytest.mark.parametrize(
    ("usage", "price", "provider", "expected"),
    [
        (Usage(input_tokens=100, output_tokens=10), PRICE, Provider.OPENAI, "0.00012"),
        ({"input_tokens": 100, "output_tokens": 10}, PRICE, Provider.LOCAL, "0.00012"),
        (
            Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60),
            CACHED,
            Provider.OPENAI,
            "0.000066",  # 40 fresh, 60 cached, 10 out
        ),
        (
            Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60),
            PRICE,
            Provider.OPENAI,
            "0.00012",  # no price for cached tokens: the full one
        ),
        (
            Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60),
            CACHED,
            Provider.ANTHROPIC,
            "0.000126",  # 100 fresh beside 60 cached
        ),
        (
            Usage(input_tokens=100, output_tokens=10, cache_write_tokens=5),
            CACHED,
            Provider.ANTHROPIC,
            None,
        ),
        (
            Usage(input_tokens=100, output_tokens=10, cache_write_tokens=5),
            CACHED,
            Provider.OPENAI,
            "0.00012",
        ),
        (
            Usage(input_tokens=10, output_tokens=10, cache_read_tokens=60),
            CACHED,
            Provider.OPENAI,
            None,
        ),
        (Usage(input_tokens=100), PRICE, Provider.OPENAI, None),
        (Usage(), PRICE, Provider.OPENAI, None),
        ({"input_tokens": True, "output_tokens": 1}, PRICE, Provider.OPENAI, None),
        (Usage(input_tokens=1, output_tokens=1), Price(), Provider.OPENAI, None),
        (
            Usage(input_tokens=1, output_tokens=1),
            Price(prompt_usd_per_token=Decimal(0)),
            Provider.OPENAI,
            None,
        ),
        (
            Usage(input_tokens=0, output_tokens=0),
            Price(prompt_usd_per_token=Decimal(1), completion_usd_per_token=Decimal(1)),
            Provider.OPENAI,
            "0",
        ),
    ],
)
def test_cost_of(usage: object, price: Price, provider: Provider, expected: str | None) -> None:
    cost = cost_of(usage, price, provider)
    assert cost == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("status", "failed", "passed", "in_error_for_s", "events"),
    [
        (ModelStatus.AVAILABLE, 2, 0, 0.0, ()),
        (ModelStatus.AVAILABLE, 3, 0, 0.0, ("error",)),
        (ModelStatus.TESTING, 3, 0, 0.0, ("error",)),
        (ModelStatus.TESTING, 0, 9, 0.0, ()),
        (ModelStatus.DEPRECATED, 9, 0, 0.0, ()),
        (ModelStatus.ERROR, 9, 0, 1e9, ()),
        (ModelStatus.ERROR, 0, 2, 599.9, ()),
        (ModelStatus.ERROR, 0, 1, 600.0, ()),
        (ModelStatus.ERROR, 0, 2, 600.0, ("retest", "approve")),
    ],
)
def test_after_check(
    status: ModelStatus, failed: int, passed: int, in_error_for_s: float, events: tuple[str, ...]
) -> None:
    assert (
        after_check(
            status,
            failed_in_a_row=failed,
            passed_in_a_row=passed,
            in_error_for_s=in_error_for_s,
            cooldown_s=600,
        )
        == events
    )


@given(
    st.sampled_from(list(ModelStatus)),
    st.integers(0, 10),
    st.integers(0, 10),
    st.floats(0, 1e4),
)
def test_every_event_after_a_check_is_one_the_machine_takes(
    status: ModelStatus, failed: int, passed: int, waited_s: float
) -> None:
    state: str = status
    for event in after_check(
        status,
        failed_in_a_row=failed,
        passed_in_a_row=passed,
        in_error_for_s=waited_s,
        cooldown_s=600,
    ):
        state = MODEL_MACHINE.next(state, event)
