"""The registry through HTTP: its machine, its jobs, its price book, its refusals."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from dspex_ray.bootstrap import Services, services_of
from dspex_ray.core.actor import SYSTEM
from dspex_ray.core.ids import ModelId
from dspex_ray.db.engine import Database
from dspex_ray.db.tables import model_stats
from dspex_ray.models.model import ErrorClass
from dspex_ray.settings import Settings
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.conftest import (
    ScriptedProvider,
    a_model,
    a_program,
    ok,
    refuse_configuration_changes,
    refused,
)
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
CHECK = "models.health_check"


async def registered(api: httpx.AsyncClient, name: str = "m", **change: Any) -> dict[str, Any]:
    model: dict[str, Any] = ok(await api.post("/v1/models", json=a_model(name, **change)), 201)
    return model


async def available(api: httpx.AsyncClient, name: str = "m") -> dict[str, Any]:
    await registered(api, name)
    model: dict[str, Any] = ok(await api.post(f"/v1/models/{name}/approve"))
    return model


async def in_error(api: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    """A model that was available until its checks failed three times."""
    await available(api)
    provider.fail(3)
    for _ in range(3):
        ok(await api.post("/v1/models/m/check"))
    assert await status(api) == "error"


async def status(api: httpx.AsyncClient, name: str = "m") -> str:
    return str(ok(await api.get(f"/v1/models/{name}"))["status"])


# --- registering ---------------------------------------------------------------------------


async def test_a_new_model_is_whole_and_has_one_check_enqueued(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    answer = await api.post("/v1/models", json=a_model(cost_per_token="0.000002", max_tokens=64))
    model = ok(answer, 201)
    assert answer.headers["etag"] == '"1"'
    assert ok(await api.get("/v1/models/m")) == model
    assert (model["status"], model["health_status"]) == ("testing", "unknown")
    assert model["price"] == {
        "prompt_usd_per_token": "0.000002",
        "completion_usd_per_token": "0.000002",
        "cached_prompt_usd_per_token": None,
    }
    assert await rows.jobs() == [(CHECK, model["id"])]


async def test_no_check_is_enqueued_when_none_is_wanted(api: httpx.AsyncClient, rows: Rows) -> None:
    answer = await api.post("/v1/models?test_on_creation=false", json=a_model())
    ok(answer, 201)
    assert await rows.jobs() == []


async def test_a_taken_name_is_refused_and_leaves_nothing(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    await registered(api)
    before = await rows.dump()
    problem = refused(await api.post("/v1/models", json=a_model(max_tokens=5)), 409)
    assert problem["detail"] == "a model named 'm' exists"
    assert await rows.dump() == before


async def test_a_registration_that_fails_at_the_end_takes_its_job_with_it(
    api: httpx.AsyncClient, database: Database, rows: Rows
) -> None:
    before = await rows.dump()
    await refuse_configuration_changes(database)
    assert (await api.post("/v1/models", json=a_model())).status_code == 500
    assert await rows.dump() == before


CONTRADICTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"api_key": "k", "api_key_ref": {"env": "K"}}, "body", "value_error"),
    ({"price": {}, "cost_per_token": "1"}, "body", "value_error"),
    ({"base_url": None}, "body", "value_error"),
    ({"api_key_ref": {"env": "lower"}}, "api_key_ref.env", "string_pattern_mismatch"),
    ({"cost_per_token": "-1"}, "cost_per_token", "greater_than_equal"),
    ({"requests_per_minute": 0}, "requests_per_minute", "greater_than_equal"),
    (
        {"config": {"headers": {"Authorization": "Bearer x"}}},
        "config.headers.Authorization",
        "ours",
    ),
    ({"config": {"colour": "red"}}, "config.colour", "known key"),
]


async def test_what_contradicts_itself_is_refused(api: httpx.AsyncClient, rows: Rows) -> None:
    for change, field, rule in CONTRADICTIONS:
        answer = await api.post("/v1/models", json=a_model(**change))
        refused(answer, 422, field=field, rule=rule)
    assert await rows.of("models") == []


# --- addresses -----------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1:8000/v1",
    "http://10.0.0.7/v1",
    "http://192.168.1.1/v1",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]:8000/v1",
    "http://[::ffff:10.0.0.1]/v1",
    "http://0x7f000001/v1",
    "http://2130706433/v1",
    "http://0177.0.0.1/v1",
    "http://localhost:8000/v1",
]


async def test_private_addresses_are_refused_when_given_and_when_changed(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    await registered(api)
    before = await rows.dump()
    for url in PRIVATE:
        for answer in (
            await api.post("/v1/models", json=a_model("other", base_url=url)),
            await api.patch("/v1/models/m", json={"base_url": url}),
        ):
            problem = refused(answer, 422, field="base_url", rule="public address")
            assert "DSPEX_RAY_ALLOW_PRIVATE_BASE_URLS" in problem["detail"]
    for url, rule in (("file:///etc/passwd", "scheme"), ("https://k:s@8.8.8.8/", "no credentials")):
        answer = await api.post("/v1/models", json=a_model("other", base_url=url))
        refused(answer, 422, field="base_url", rule=rule)
    assert await rows.dump() == before


class TestAllowed:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"allow_private_base_urls": True})

    async def test_private_addresses_are_taken_when_the_setting_says_so(
        self, api: httpx.AsyncClient
    ) -> None:
        for number, url in enumerate(PRIVATE):
            assert (await registered(api, f"m{number}", base_url=url))["base_url"] == url


# --- the machine ---------------------------------------------------------------------------


async def test_approval_runs_a_check_unless_one_passed_within_a_day(
    api: httpx.AsyncClient, provider: ScriptedProvider, clock: FakeClock
) -> None:
    assert (await available(api))["status"] == "available"
    assert provider.asked == [("m", None)]
    for hours, asked in ((24, 1), (24.1, 2)):
        ok(await api.post("/v1/models/m/deprecate"))
        ok(await api.post("/v1/models/m/retest"))
        clock.advance(hours * 3600)
        ok(await api.post("/v1/models/m/approve"))
        assert len(provider.asked) == asked


async def test_a_model_that_fails_its_check_is_not_approved(
    api: httpx.AsyncClient, provider: ScriptedProvider, rows: Rows
) -> None:
    await registered(api)
    provider.fail(1, ErrorClass.AUTH)
    problem = refused(await api.post("/v1/models/m/approve"), 409)
    assert problem["details"] == {"error_class": "auth"}
    assert problem["detail"] == (
        "model 'm' did not pass its health check: auth: the provider said no"
    )
    assert await status(api) == "testing"
    checks = ok(await api.get("/v1/models/m/checks"))["items"]
    assert [(check["ok"], check["error_class"]) for check in checks] == [(False, "auth")]


async def test_a_model_that_is_hosted_here_may_be_late_with_its_first_answer(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    await registered(api, provider="local", model_name="smollm2-135m-instruct", base_url=None)
    provider.fail(1, ErrorClass.TIMEOUT)
    ok(await api.post("/v1/models/m/approve"))
    assert await status(api) == "available"
    checks = ok(await api.get("/v1/models/m/checks"))["items"]
    assert [check["error_class"] for check in checks] == [None, "timeout"]
    await registered(
        api, "late", provider="local", model_name="smollm2-135m-instruct", base_url=None
    )
    provider.fail(2, ErrorClass.TIMEOUT)
    refused(await api.post("/v1/models/late/approve"), 409)
    assert await status(api, "late") == "testing"


async def test_moves_that_the_machine_does_not_have_are_refused(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    await available(api)
    for event in ("approve", "retest"):
        problem = refused(await api.post(f"/v1/models/m/{event}"), 409)
        assert problem["code"] == "transition_refused"
        assert problem["details"]["allowed"] == ["deprecate", "error"]
    ok(await api.post("/v1/models/m/deprecate"))
    refused(await api.post("/v1/models/m/deprecate"), 409)
    events = [(row["event"], row["to_state"]) for row in await rows.of("state_events")]
    assert events == [("approve", "available"), ("deprecate", "deprecated")]


async def test_a_retest_asks_for_a_check_but_only_one_waits(
    api: httpx.AsyncClient, rows: Rows, services: Services
) -> None:
    model = await registered(api)
    ok(await api.post("/v1/models/m/deprecate"))
    ok(await api.post("/v1/models/m/retest"))
    await services.models.request_check(ModelId(model["id"]))
    assert await rows.jobs() == [(CHECK, model["id"])]


async def test_three_failed_checks_in_a_row_fire_error(
    api: httpx.AsyncClient, provider: ScriptedProvider, rows: Rows
) -> None:
    await available(api)
    provider.script.extend([ErrorClass.TIMEOUT] * 2 + [None] + [ErrorClass.TIMEOUT] * 2)
    for _ in range(5):
        ok(await api.post("/v1/models/m/check"))
        assert await status(api) == "available"
    provider.fail(1)
    ok(await api.post("/v1/models/m/check"))
    assert await status(api) == "error"
    (event,) = [row for row in await rows.of("audit_events") if row["action"] == "model.error"]
    assert (event["before"], event["after"]) == ({"status": "available"}, {"status": "error"})


async def test_after_the_cooldown_two_passing_checks_approve_by_themselves(
    api: httpx.AsyncClient, provider: ScriptedProvider, clock: FakeClock, settings: Settings
) -> None:
    await in_error(api, provider)
    clock.advance(settings.health.error_cooldown_s)
    ok(await api.post("/v1/models/m/check"))
    assert await status(api) == "error"
    ok(await api.post("/v1/models/m/check"))
    assert await status(api) == "available"


async def test_before_the_cooldown_passing_checks_change_nothing(
    api: httpx.AsyncClient, provider: ScriptedProvider, clock: FakeClock, settings: Settings
) -> None:
    await in_error(api, provider)
    clock.advance(settings.health.error_cooldown_s - 1)
    for _ in range(4):
        ok(await api.post("/v1/models/m/check"))
    assert await status(api) == "error"
    clock.advance(1)
    provider.fail(1)
    for expected in ("error", "error", "available"):  # failed; once passed; twice passed
        ok(await api.post("/v1/models/m/check"))
        assert await status(api) == expected


async def test_the_schedule_leaves_a_model_in_error_alone_until_its_cooldown(
    api: httpx.AsyncClient,
    provider: ScriptedProvider,
    clock: FakeClock,
    settings: Settings,
    services: Services,
) -> None:
    await in_error(api, provider)
    every = timedelta(seconds=settings.health.check_interval_s)
    clock.advance(settings.health.error_cooldown_s - 1)
    assert await services.models.schedule_checks(every) == 0
    clock.advance(1)
    assert await services.models.schedule_checks(every) == 1


async def test_the_schedule_asks_for_each_due_model_once(
    api: httpx.AsyncClient, clock: FakeClock, services: Services, rows: Rows
) -> None:
    checked = await available(api, "checked")
    new = await registered(api, "new")
    ok(await api.post("/v1/models", json=a_model("old")), 201)
    ok(await api.post("/v1/models/old/deprecate"))
    interval = timedelta(minutes=5)
    waiting = await rows.jobs()  # each registration left one
    assert await services.models.schedule_checks(interval) == 1
    clock.advance(301)
    assert await services.models.schedule_checks(interval) == 2
    assert await rows.jobs() == waiting
    assert {checked["id"], new["id"]} < {model for _, model in waiting}


async def test_health_has_strict_thresholds(
    api: httpx.AsyncClient, services: Services, clock: FakeClock
) -> None:
    model = await available(api)

    async def health(good: int, bad: int) -> tuple[str, float]:
        async with services.database.write() as conn:
            outcomes = "1" * good + "0" * bad
            mine = model_stats.c.model_id == model["id"]
            await conn.execute(update(model_stats).where(mine).values(recent_outcomes=outcomes))
        seen = ok(await api.get("/v1/models/m"))
        return seen["health_status"], seen["stats"]["success_rate"]

    assert await health(191, 9) == ("healthy", 0.955)
    assert await health(190, 10) == ("degraded", 0.95)
    assert await health(161, 39) == ("degraded", 0.805)
    assert await health(160, 40) == ("unhealthy", 0.8)
    clock.advance(24 * 3600)
    assert (await health(200, 0))[0] == "healthy"
    clock.advance(1)
    assert (await health(200, 0))[0] == "stale"


async def test_latency_is_a_moving_average_of_checks_that_passed(
    api: httpx.AsyncClient, provider: ScriptedProvider, services: Services
) -> None:
    model = await available(api)  # one check, of 100 ms
    async with services.database.write() as conn:
        mine = model_stats.c.model_id == model["id"]
        await conn.execute(update(model_stats).where(mine).values(average_latency_ms=200.0))
    provider.script.extend([ErrorClass.TIMEOUT, None])
    for expected in (200.0, 190.0):
        ok(await api.post("/v1/models/m/check"))
        stats = ok(await api.get("/v1/models/m"))["stats"]
        assert stats["average_latency_ms"] == pytest.approx(expected)


# --- prices and estimates ------------------------------------------------------------------


async def test_a_changed_price_is_a_new_line_of_the_book(api: httpx.AsyncClient) -> None:
    await registered(api, price={"prompt_usd_per_token": "0.1", "completion_usd_per_token": "0.2"})
    for change in ({"cost_per_token": "0.3"}, {"cost_per_token": "0.3"}, {"max_tokens": 9}):
        ok(await api.patch("/v1/models/m", json=change))
    book = ok(await api.get("/v1/models/m/prices"))["items"]
    assert [
        (line["version"], line["prompt_usd_per_token"], line["completion_usd_per_token"])
        for line in book
    ] == [(2, "0.3", "0.3"), (1, "0.1", "0.2")]
    assert ok(await api.get("/v1/models/m"))["price_version"] == 2


async def test_the_price_of_nobody_knows_is_unknown_not_zero(api: httpx.AsyncClient) -> None:
    await registered(api)
    (line,) = ok(await api.get("/v1/models/m/prices"))["items"]
    assert (line["source"], line["prompt_usd_per_token"]) == ("unknown", None)
    estimate = ok(await api.post("/v1/models/m/estimate-cost", json={"text": "one two"}))
    assert estimate["estimated_cost"] is None
    assert estimate["estimated_tokens"] > 0


async def test_an_estimate_says_which_tokenizer_counted(api: httpx.AsyncClient) -> None:
    openai = {"provider": "openai", "model_name": "gpt-4o-mini", "base_url": None}
    await registered(api, "known", **openai, cost_per_token="0.5")
    await registered(api, "other", cost_per_token="0.5")
    text = {"text": "How many tokens are in here?"}
    assert ok(await api.post("/v1/models/known/estimate-cost", json=text)) == {
        "estimated_tokens": 7,
        "estimated_cost": "3.5",
        "currency": "USD",
        "tokenizer": "o200k_base",
        "exact": True,
    }
    other = ok(await api.post("/v1/models/other/estimate-cost", json=text))
    assert not other["exact"]
    assert other["tokenizer"] == "cl100k_base x1.3 (estimate)"


# --- updates and deletion ------------------------------------------------------------------


async def test_an_update_needs_the_newest_revision_when_it_names_one(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    await registered(api)
    first = {"if-match": '"1"'}
    answer = await api.patch("/v1/models/m", json={"max_tokens": 5}, headers=first)
    assert (ok(answer)["revision"], answer.headers["etag"]) == (2, '"2"')
    before = await rows.dump()
    problem = refused(await api.patch("/v1/models/m", json={"max_tokens": 6}, headers=first), 412)
    assert problem["detail"] == "model 'm' is at revision 2, not 1: read it again"
    assert await rows.dump() == before
    for header in ({"if-match": "*"}, {}):
        ok(await api.patch("/v1/models/m", json={"max_tokens": 7}, headers=header))


async def test_an_update_changes_what_it_names_and_can_take_away(api: httpx.AsyncClient) -> None:
    before = await registered(api, max_tokens=64, requests_per_minute=10, timeout_s=5)
    change = {"max_tokens": None, "supports_streaming": True}
    after = ok(await api.patch("/v1/models/m", json=change))
    expected = before | change | {"revision": 2}
    assert after == expected


async def test_a_cache_is_off_unless_asked_for_and_can_be_turned_off(
    api: httpx.AsyncClient,
) -> None:
    assert (await registered(api))["cache_ttl_s"] is None
    assert (await registered(api, "c", cache_ttl_s=3600))["cache_ttl_s"] == 3600
    assert ok(await api.get("/v1/models/c"))["cache_ttl_s"] == 3600
    kept = ok(await api.patch("/v1/models/c", json={"max_tokens": 5}))
    assert (kept["cache_ttl_s"], kept["revision"]) == (3600, 2)
    off = ok(await api.patch("/v1/models/c", json={"cache_ttl_s": None}))
    assert (off["cache_ttl_s"], off["revision"]) == (None, 3)
    bad = await api.patch("/v1/models/c", json={"cache_ttl_s": 0})
    refused(bad, 422, field="cache_ttl_s", rule="greater_than_equal")


BAD_UPDATES: list[tuple[dict[str, Any], str, str]] = [
    ({"model_name": None}, "model_name", "not null"),
    ({"config": None}, "config", "not null"),
    ({"timeout_s": None}, "timeout_s", "not null"),
    ({"supports_functions": None}, "supports_functions", "not null"),
    ({"price": None}, "price", "not null"),
    ({"base_url": None}, "base_url", "required"),
    ({"api_key": "k", "api_key_ref": {"env": "K"}}, "api_key_ref", "one of both"),
    ({"price": {}, "cost_per_token": "1"}, "cost_per_token", "one of both"),
    ({"name": "other"}, "name", "extra_forbidden"),
    ({"status": "available"}, "status", "extra_forbidden"),
    ({"config": {"colour": 1}}, "config.colour", "known key"),
]


async def test_an_update_cannot_make_what_registration_refuses(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    await registered(api)
    before = await rows.dump()
    for change, field, rule in BAD_UPDATES:
        refused(await api.patch("/v1/models/m", json=change), 422, field=field, rule=rule)
    assert await rows.dump() == before


async def test_an_assigned_model_is_not_deleted(api: httpx.AsyncClient, rows: Rows) -> None:
    await registered(api)
    assigned = ok(await api.post("/v1/routes/r/assignments", json={"model": "m"}), 201)
    problem = refused(await api.delete("/v1/models/m"), 409)
    assert problem["detail"].startswith("model 'm' is assigned to a program or route")
    ok(await api.delete(f"/v1/assignments/{assigned['id']}"), 204)
    ok(await api.delete("/v1/models/m"), 204)
    refused(await api.get("/v1/models/m"), 404)
    assert await rows.of("model_prices") == await rows.of("model_stats") == []


async def test_a_model_that_a_version_in_use_pins_is_not_deleted(api: httpx.AsyncClient) -> None:
    await registered(api)
    await registered(api, "other")
    pinned = {"module": {"signature": "question -> answer", "model": "m"}}
    ok(await api.post("/v1/programs", json={"name": "p", "source": pinned}), 201)

    async def delete() -> str:
        return str(refused(await api.delete("/v1/models/m"), 409)["detail"])

    def bare(text: str) -> dict[str, Any]:
        return {"source": {"module": {"signature": text}, "models": {"": "other"}}}

    assert await delete() == (
        "model 'm' is pinned by p@1: add a version without it, move labels and splits to that, "
        "or deprecate the model"
    )  # the newest
    ok(await api.post("/v1/programs/p/versions", json=bare("question -> reply")), 201)
    ok(await api.put("/v1/programs/p/labels/old", json={"version": 1}))
    assert "pinned by p@1:" in await delete()  # labelled
    ok(await api.put("/v1/programs/p/labels/old", json={"version": 2}))
    arms = [{"version": 1, "weight_bp": 5_000}, {"version": 2, "weight_bp": 5_000}]
    ok(await api.put("/v1/programs/p/split", json={"arms": arms}))
    assert "pinned by p@1:" in await delete()  # in the split
    ok(await api.put("/v1/programs/p/split", json={"arms": [{"version": 2, "weight_bp": 10_000}]}))
    ok(await api.delete("/v1/models/m"), 204)  # no version says its name but by a number
    refused(await api.delete("/v1/models/other"), 409)
    ok(await api.post("/v1/programs/p/archive"))
    ok(await api.delete("/v1/models/other"), 204)


async def test_a_version_and_the_end_of_its_model_do_not_pass_each_other(
    api: httpx.AsyncClient,
) -> None:
    """Whichever comes first, a version never pins a model that is not there."""
    ok(await api.post("/v1/programs", json=a_program()), 201)
    for number in range(6):
        await registered(api)
        source = {"signature": f"question -> answer{number}", "model": "m"}
        new = {"source": {"module": source}}
        made, ended = await asyncio.gather(
            api.post("/v1/programs/p/versions", json=new), api.delete("/v1/models/m")
        )
        assert (made.status_code, ended.status_code) in ((201, 409), (422, 204)), made.text
        if made.status_code == 201:
            other = {"source": {"module": {"signature": f"question -> reply{number}"}}}
            ok(await api.post("/v1/programs/p/versions", json=other), 201)
            ok(await api.delete("/v1/models/m"), 204)


async def test_lists_are_filtered(api: httpx.AsyncClient) -> None:
    await available(api, "b")
    await registered(api, "a", provider="local", base_url=None)

    async def names(**filters: str) -> list[str]:
        return [m["name"] for m in ok(await api.get("/v1/models", params=filters))["items"]]

    assert await names() == ["a", "b"]
    assert await names(status="available") == ["b"]
    assert await names(provider="local") == ["a"]
    assert await names(status="available", provider="local") == []
    refused(await api.get("/v1/models?status=fine"), 422, field="query.status", rule="enum")


async def test_a_model_deleted_while_it_is_asked_leaves_no_check(
    api: httpx.AsyncClient,
    services: Services,
    settings: Settings,
    provider: ScriptedProvider,
    rows: Rows,
) -> None:
    await registered(api)

    async def slow(model: Any, key: Any) -> Any:
        ok(await api.delete("/v1/models/m"), 204)
        return await provider(model, key)

    late = services_of(settings, services.database, services.keyring, slow, services.clock)
    model = await services.models.get(SYSTEM, "m")
    assert (await late.models.check(SYSTEM, "m")).model_id == model.id
    assert await rows.of("model_checks") == []
