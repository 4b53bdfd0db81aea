"""Retries: when, how often, how long; on both clients, which are one source."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from dspex_ray import __version__
from dspex_ray.client.address import Address
from dspex_ray.client.aio.connection import AsyncConnection
from dspex_ray.client.bodies import Ask
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core import errors
from dspex_ray.models.model import Model
from tests.unit.client.wire import Platform, model, ok, openai_error, problem

ADDRESS = Address("http://platform", SecretStr("k-1"))
GET = Ask("GET", "/x", repeatable=True)


class Waits(list[float]):
    """Sleeps that take no time, for both clients."""

    async def asleep(self, seconds: float) -> None:
        self.append(seconds)

    def sleep(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def connection(platform: Platform, waits: Waits, **options: Any) -> AsyncConnection:
    return AsyncConnection(
        ADDRESS,
        **{"timeout_s": 60, "max_retries": 2, **options},
        transport=platform.transport,
        sleep=waits.asleep,
        rng=random.Random(1),
    )


async def test_headers_of_every_request(waits: Waits) -> None:
    platform = Platform([ok(model())])
    await connection(platform, waits).call(Model, Ask("POST", "/x", content=b"{}"))
    headers = platform.last.headers
    assert headers["authorization"] == "Bearer k-1"
    assert headers["user-agent"] == f"dspex-ray/{__version__}"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "reply",
    [
        problem(429, "rate_limited", "slow down"),
        problem(503, "unavailable", "the database is away"),
        openai_error(503, "overloaded", "full"),
        httpx.Response(503, text="no replica"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("Server disconnected"),
    ],
)
async def test_a_passing_failure_is_tried_again(
    reply: httpx.Response | Exception, waits: Waits
) -> None:
    platform = Platform([reply, reply, ok(model())])
    found = await connection(platform, waits).call(Model, GET)
    assert found.name == "smol"
    assert len(platform.asked) == 3
    assert 0.125 <= waits[0] <= 0.25
    assert 0.25 <= waits[1] <= 0.5


async def test_it_gives_up_after_max_retries(waits: Waits) -> None:
    platform = Platform([problem(503, "overloaded", "full")])
    with pytest.raises(errors.Overloaded, match="full"):
        await connection(platform, waits, max_retries=1).call(Model, GET)
    assert len(platform.asked) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(429, "budget_spent", "spent"), errors.BudgetSpent),
        (problem(502, "provider_down", "every model failed"), errors.ProviderDown),
        (problem(404, "not_found", "no model 'x'"), errors.NotFound),
        (problem(500, "error", "unexpected"), errors.DspexRayError),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded),
    ],
)
async def test_what_would_fail_again_is_not_tried_again(
    reply: httpx.Response | Exception, kind: type[errors.DspexRayError], waits: Waits
) -> None:
    platform = Platform([reply])
    with pytest.raises(kind):
        await connection(platform, waits).call(Model, GET)
    assert (len(platform.asked), waits) == (1, [])


@pytest.mark.parametrize("reply", [httpx.ReadError("cut"), problem(503, "unavailable", "away")])
async def test_what_might_happen_twice_is_not_tried_again(
    reply: httpx.Response | Exception, waits: Waits
) -> None:
    platform = Platform([reply])
    with pytest.raises(errors.Unavailable):
        await connection(platform, waits).call(Model, Ask("POST", "/x", content=b"{}"))
    assert len(platform.asked) == 1


async def test_retry_after_is_kept(waits: Waits) -> None:
    busy = httpx.Response(503, text="busy", headers={"retry-after": "7"})
    await connection(Platform([busy, ok(model())]), waits).call(Model, GET)
    assert len(waits) == 1
    assert 7.0 <= waits[0] <= 7.7


async def test_a_retry_after_beyond_the_patience_fails_at_once(waits: Waits) -> None:
    platform = Platform([problem(429, "rate_limited", "slow down", retry_after_s=61)])
    with pytest.raises(errors.RateLimited) as caught:
        await connection(platform, waits).call(Model, GET)
    assert caught.value.retry_after_s == 61
    assert (len(platform.asked), waits) == (1, [])


async def test_a_redirect_is_not_followed_with_the_key(waits: Waits) -> None:
    platform = Platform([httpx.Response(307, headers={"location": "http://elsewhere/x"})])
    with pytest.raises(errors.DspexRayError, match="HTTP 307"):
        await connection(platform, waits).call(Model, GET)
    assert len(platform.asked) == 1


async def test_the_deadline_of_a_call_is_longer_than_what_the_platform_keeps(waits: Waits) -> None:
    platform = Platform([ok(model())])
    await connection(platform, waits).call(Model, Ask("GET", "/x", timeout_s=100))
    assert platform.last.extensions["timeout"] == {
        "connect": 5.0,
        "read": 105.0,
        "write": 105.0,
        "pool": 105.0,
    }


def test_the_generated_connection_does_the_same(waits: Waits) -> None:
    platform = Platform([problem(503, "overloaded", "full"), ok(model())])
    generated = Connection(
        ADDRESS,
        timeout_s=60,
        max_retries=2,
        transport=platform.transport,
        sleep=waits.sleep,
        rng=random.Random(1),
    )
    assert generated.call(Model, GET).name == "smol"
    assert len(waits) == 1
    generated.close()
