"""The HTTP face: scopes, shapes, and refusals that FastAPI makes before the service is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Header

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Denied
from dspex_ray.core.ids import DEFAULT_PROJECT
from dspex_ray.db.engine import Database
from dspex_ray.traces.routes import router
from dspex_ray.traces.service import TraceService
from tests.integration.traces.conftest import drain_all, drainer, spooled
from tests.unit.traces.records import NOW, FixedClock, a_call, a_record, an_attempt, record_id

pytestmark = pytest.mark.integration

RUN = f"/v1/executions/{record_id(1)}"


@pytest.fixture
async def client(house: Database, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    spooled(tmp_path, [a_record(n, a_call(an_attempt()), tags={"t": "1"}) for n in (1, 2)])
    await drain_all(drainer(house, tmp_path))
    app = FastAPI()
    app.include_router(router(TraceService(house, FixedClock()), _authorise))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as opened:
        yield opened


def _authorise(scope: Scope) -> Callable[..., Actor]:
    def actor(x_scope: Annotated[str, Header()] = "read") -> Actor:
        if x_scope != scope:
            raise Denied("no", reason="forbidden")
        return Actor("ann", DEFAULT_PROJECT, frozenset({scope}))

    return actor


async def test_list_get_and_usage(client: httpx.AsyncClient) -> None:
    first = (await client.get("/v1/executions", params={"limit": 1, "tag": "t=1"})).json()
    assert [item["id"] for item in first["items"]] == [str(record_id(2))]
    params = {"limit": 1, "cursor": first["next_cursor"]}
    second = (await client.get("/v1/executions", params=params)).json()
    assert [item["id"] for item in second["items"]] == [str(record_id(1))]
    assert second["next_cursor"] is None
    shown = (await client.get(RUN)).json()
    assert shown["lm_calls"][0]["attempts"][0]["model"] == "model-0"
    span = {"since": NOW.isoformat(), "until": NOW.isoformat()}
    usage = await client.get("/v1/usage", params={"group_by": ["day", "source"], **span})
    assert [row["attempts"] for row in usage.json()["items"]] == [2]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/executions", {"limit": 0}),
        ("/v1/executions", {"limit": 501}),
        ("/v1/executions", {"colour": "red"}),
        ("/v1/executions", {"since": "2026-01-01T00:00:00"}),  # no timezone
        ("/v1/executions/not-an-id", {}),
        ("/v1/usage", {"group_by": "colour"}),
        (f"{RUN}/feedback", {"limit": 0}),
    ],
)
async def test_bad_questions_are_refused(
    client: httpx.AsyncClient, path: str, params: dict[str, str | int]
) -> None:
    assert (await client.get(path, params=params)).status_code == 422


async def test_feedback_comes_and_is_listed(client: httpx.AsyncClient) -> None:
    writer = {"x-scope": "write"}
    given = {"score": 1, "label": "good"}
    added = await client.post(f"{RUN}/feedback", json=given, headers=writer)
    assert added.status_code == 201
    assert added.json()["actor"] == "ann"
    listed = (await client.get(f"{RUN}/feedback")).json()
    assert listed == {"items": [added.json()], "next_cursor": None}
    for bad in ({"score": 2}, {"colour": "red"}, {"label": "x" * 201}):
        answer = await client.post(f"{RUN}/feedback", json=bad, headers=writer)
        assert answer.status_code == 422


async def test_each_route_asks_for_its_scope(client: httpx.AsyncClient) -> None:
    for path in ("/v1/executions", RUN, "/v1/usage", f"{RUN}/feedback"):
        with pytest.raises(Denied):
            await client.get(path, headers={"x-scope": "write"})
    with pytest.raises(Denied):
        await client.post(f"{RUN}/feedback", json={"score": 1}, headers={"x-scope": "read"})
