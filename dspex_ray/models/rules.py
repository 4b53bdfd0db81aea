"""Decisions about models: health, moving averages, what a call cost, what follows from a check."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from dspex_ray.core.errors import Invalid
from dspex_ray.models.model import (
    HealthStatus,
    ModelStats,
    ModelStatus,
    ModelUpdate,
    Price,
    Provider,
)

STALE_AFTER = timedelta(hours=24)
OUTCOMES_KEPT = 200
CHECKS_TO_ERROR = 3
CHECKS_TO_RECOVER = 2

CheckEvent = Literal["error", "retest", "approve"]

# What a model may be without, so that an update can take it away.
_REMOVABLE = frozenset(
    {
        "api_key",
        "api_key_ref",
        "base_url",
        "max_tokens",
        "context_window",
        "requests_per_minute",
        "cache_ttl_s",
    }
)


def health_status(stats: ModelStats, now: datetime) -> HealthStatus:
    """Thresholds are strict: 24 h old is not stale, 0.95 is degraded, 0.8 is unhealthy."""
    if stats.last_health_check is None:
        return HealthStatus.UNKNOWN
    if now - stats.last_health_check > STALE_AFTER:
        return HealthStatus.STALE
    if stats.success_rate is None or stats.success_rate <= 0.8:
        return HealthStatus.UNHEALTHY
    return HealthStatus.HEALTHY if stats.success_rate > 0.95 else HealthStatus.DEGRADED


def next_latency(current: float | None, sample_ms: float) -> float:
    """The moving average after one more successful call; the first sample as it is."""
    return sample_ms if current is None else 0.9 * current + 0.1 * sample_ms


def push_outcomes(recent: str, new: str, window: int = OUTCOMES_KEPT) -> str:
    """The last `window` outcomes, oldest first: '1' a success, '0' a failure."""
    return (recent + new)[-window:]


def success_rate(recent: str) -> float | None:
    """Share of '1'; None when there is no outcome yet."""
    return recent.count("1") / len(recent) if recent else None


def cost_of(usage: object, price: Price, provider: Provider) -> Decimal | None:
    """USD of one call from the provider's own counts; None when a price or a count is unknown.

    `usage` is an lm15 Usage, or a mapping with its field names. Counts are as the provider gave
    them: cached tokens lie inside `input_tokens`, except on Anthropic, where the cache counters
    are apart and writing to the cache has a price of its own, which the book does not hold:
    such a call's cost is unknown. Without a price for cached tokens they cost the full price.
    """
    prompt, completion = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    prompt_price, completion_price = price.prompt_usd_per_token, price.completion_usd_per_token
    if prompt is None or completion is None or prompt_price is None or completion_price is None:
        return None
    cached = _count(usage, "cache_read_tokens") or 0
    if provider is Provider.ANTHROPIC:
        if _count(usage, "cache_write_tokens"):
            return None
        fresh = prompt
    else:
        fresh = prompt - cached
    if fresh < 0:
        return None
    cached_price = price.cached_prompt_usd_per_token
    return (
        fresh * prompt_price
        + cached * (prompt_price if cached_price is None else cached_price)
        + completion * completion_price
    )


def after_check(
    status: ModelStatus,
    *,
    failed_in_a_row: int,
    passed_in_a_row: int,
    in_error_for_s: float,
    cooldown_s: float,
) -> tuple[CheckEvent, ...]:
    """Events of the model machine that follow from a check; the counts include that check.

    Three failures in a row take a model out of service. A model in error comes back by itself
    after the cooldown and two passing checks; from `testing` only a person approves.
    """
    if status in (ModelStatus.TESTING, ModelStatus.AVAILABLE):
        return ("error",) if failed_in_a_row >= CHECKS_TO_ERROR else ()
    if (
        status is ModelStatus.ERROR
        and in_error_for_s >= cooldown_s
        and passed_in_a_row >= CHECKS_TO_RECOVER
    ):
        return ("retest", "approve")
    return ()


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_update(provider: Provider, change: ModelUpdate) -> None:
    """Raises Invalid for a change that would leave what registration refuses."""
    given = {field: getattr(change, field) for field in change.model_fields_set}
    for field, value in given.items():
        if value is None and field not in _REMOVABLE:
            raise Invalid(f"{field} cannot be null: leave it out", field=field, rule="not null")
    for one, other in (("api_key", "api_key_ref"), ("price", "cost_per_token")):
        if given.get(one) is not None and given.get(other) is not None:
            raise Invalid(f"give {one} or {other}, not both", field=other, rule="one of both")
    if provider is Provider.OPENAI_COMPATIBLE and given.get("base_url", "kept") is None:
        raise Invalid(
            f"provider {provider.value!r} needs a base_url", field="base_url", rule="required"
        )
