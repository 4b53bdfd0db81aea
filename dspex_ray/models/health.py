"""A health check: one real, small call to the provider, measured, classified and priced."""

from __future__ import annotations

import asyncio

from dspy.lm15 import Config, Message, Request

from dspex_ray.core.clock import Clock
from dspex_ray.models.failure import classify
from dspex_ray.models.model import HealthCheck, Model, Price
from dspex_ray.models.providers import LeafEngine
from dspex_ray.models.rules import cost_of
from dspex_ray.settings import HealthSettings

PROMPT = "Reply with: ok"


async def check_model(
    model: Model,
    engine: LeafEngine,
    *,
    settings: HealthSettings,
    clock: Clock,
    price: Price,
) -> HealthCheck:
    """What the call showed. A failure is an outcome here, never an exception."""
    at, began = clock.now(), clock.monotonic()
    request = Request(
        model=model.model_name,
        messages=(Message.user(PROMPT),),
        config=Config(max_tokens=settings.check_max_tokens),
    )
    try:
        async with asyncio.timeout(settings.check_timeout_s):
            response = await engine.complete(request)
    except Exception as error:
        failure = classify(error)
        return HealthCheck(
            model_id=model.id,
            at=at,
            ok=False,
            latency_ms=(clock.monotonic() - began) * 1000,
            error_class=failure.error_class,
            message=failure.message,
        )
    return HealthCheck(
        model_id=model.id,
        at=at,
        ok=True,
        latency_ms=(clock.monotonic() - began) * 1000,
        cost_usd=cost_of(response.usage, price, model.provider),
        prompt_tokens=response.usage.input_tokens,
        completion_tokens=response.usage.output_tokens,
    )
