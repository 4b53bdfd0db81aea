"""The traffic split through HTTP: whole or refused, counted by epochs, honest about replicas."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from dspex_ray.bootstrap import Services
from dspex_ray.db.tables import configuration, gateway_replicas
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.conftest import a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
SPLIT = "/v1/programs/p/split"


@pytest.fixture(autouse=True)
async def versions(api: httpx.AsyncClient) -> None:
    """A program with versions 1 to 3."""
    ok(await api.post("/v1/programs", json=a_program()), 201)
    for field in ("reply", "outcome"):
        source = {"module": {"type": "predict", "signature": f"question -> {field}"}}
        ok(await api.post("/v1/programs/p/versions", json={"source": source}), 201)


def arms(*weights: int, **more: Any) -> dict[str, Any]:
    """Versions 1, 2, ... with these weights; `more` goes to the last."""
    found: list[dict[str, Any]] = [
        {"version": version, "weight_bp": weight} for version, weight in enumerate(weights, 1)
    ]
    found[-1] |= more
    return {"arms": found}


async def replica(services: Services, name: str, ahead: int, silent_s: float = 0) -> None:
    """A gateway replica that reports the configuration `ahead` of what is current."""
    async with services.database.write() as conn:
        current = (await conn.execute(select(configuration.c.version))).scalar_one()
        seen = services.clock.now() - timedelta(seconds=silent_s)
        values = {"id": name, "node": "n", "pid": 1, "applied_version": current + ahead}
        await conn.execute(insert(gateway_replicas).values(**values, seen_at=seen))


async def test_a_program_without_a_split_has_none(api: httpx.AsyncClient) -> None:
    problem = refused(await api.get(SPLIT), 404)
    assert problem["detail"] == "program 'p' has no split: its label 'production' decides"
    refused(await api.delete(SPLIT), 404)
    refused(await api.get("/v1/programs/none/split"), 404)


async def test_weights_that_are_not_whole_are_refused_and_nothing_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    soon = {"valid_until": "2026-01-01T13:00:00Z"}
    cases: list[tuple[Any, str, str, str]] = [
        (arms(9_999), "body", "value_error", "weights sum to 9999 basis points, not 10000"),
        (arms(9_999, 2), "body", "value_error", "weights sum to 10001 basis points"),
        (arms(20_000), "arms.0.weight_bp", "less_than_equal", ""),
        (arms(-1, 10_001), "arms.0.weight_bp", "greater_than_equal", ""),
        ({"arms": []}, "arms", "too_short", ""),
        ({"arms": arms(5_000)["arms"] * 2}, "body", "value_error", "stands in the split twice"),
        (arms(10_000, **soon), "body", "value_error", "one arm at least must have no valid_until"),
        (
            arms(5_000, 5_000, valid_until="2026-01-01T13:00:00"),
            "arms.1.valid_until",
            "timezone_aware",
            "",
        ),
        (arms(10_000, share=1), "arms.0.share", "extra_forbidden", ""),
        (
            {"arms": [{"version": 0, "weight_bp": 10_000}]},
            "arms.0.version",
            "greater_than_equal",
            "",
        ),
    ]
    before = await rows.dump()
    for body, field, rule, said in cases:
        problem = refused(await api.put(SPLIT, json=body), 422, field=field, rule=rule)
        assert said in problem["detail"]
    refused(await api.put(SPLIT, json=arms(5_000, 2_000, 2_000, 1_000)), 404)  # no version 4
    assert await rows.dump() == before


async def test_the_epoch_grows_and_the_salt_stays(api: httpx.AsyncClient) -> None:
    first = ok(await api.put(SPLIT, json=arms(10_000)))["split"]
    answer = await api.put(SPLIT, json=arms(9_000, 1_000))
    second = ok(answer)["split"]
    assert answer.headers["etag"] == '"2"'
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert len(first["salt"]) == 16
    assert second["salt"] == first["salt"]
    assert ok(await api.get(SPLIT)) == second


async def test_a_split_that_was_removed_goes_on_from_where_it_was(api: httpx.AsyncClient) -> None:
    """Units keep their buckets, and a late report of an old epoch is never taken for a new one."""
    first = ok(await api.put(SPLIT, json=arms(10_000)))["split"]
    ok(await api.delete(SPLIT))
    refused(await api.get(SPLIT), 404)
    refused(await api.delete(SPLIT), 404)
    again = ok(await api.put(SPLIT, json=arms(5_000, 5_000)))["split"]
    assert (again["salt"], again["epoch"]) == (first["salt"], 3)


async def test_a_stale_epoch_is_refused(api: httpx.AsyncClient, rows: Rows) -> None:
    ok(await api.put(SPLIT, json=arms(10_000)))
    ok(await api.put(SPLIT, json=arms(5_000, 5_000), headers={"if-match": '"1"'}))
    before = await rows.dump()
    problem = refused(
        await api.put(SPLIT, json=arms(4_000, 6_000), headers={"if-match": '"1"'}), 412
    )
    assert problem["detail"] == "the split of 'p' is at epoch 2, not 1"
    assert await rows.dump() == before


async def test_without_replicas_nothing_is_applied(api: httpx.AsyncClient) -> None:
    applied = ok(await api.put(SPLIT, json=arms(10_000)))["applied"]
    assert (applied["applied"], applied["total"]) == (0, 0)


async def test_applied_counts_the_living_replicas_that_have_it(
    api: httpx.AsyncClient, services: Services
) -> None:
    await replica(services, "ahead", 1)
    await replica(services, "behind", 0)
    await replica(services, "dead", 5, silent_s=16)
    changed = ok(await api.put(SPLIT, json=arms(10_000)))["applied"]
    assert (changed["applied"], changed["total"]) == (1, 2)
    removed = ok(await api.delete(SPLIT))
    assert removed == {"version": changed["version"] + 1, "applied": 0, "total": 2}


async def test_when_all_have_it_nobody_waits(
    api: httpx.AsyncClient, services: Services, clock: FakeClock
) -> None:
    await replica(services, "one", 1)
    await replica(services, "two", 3)
    began = clock.monotonic()
    applied = ok(await api.put(SPLIT, json=arms(10_000)))["applied"]
    assert (applied["applied"], applied["total"]) == (2, 2)
    assert clock.monotonic() - began == 1.0  # the clock was looked at for the deadline alone
