"""Following an optimization: its events, its trials page by page, waiting for it."""

from __future__ import annotations

import json
from uuid import UUID

import httpx
import pytest

from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.client.aio import optimizations
from dspex_ray.core.errors import DeadlineExceeded, Unavailable
from dspex_ray.optimization.runs import RunStatus
from tests.unit.client import wire

ID = UUID(wire.ID)


def event(status: str, percent: float) -> str:
    progress = {"percent": percent, "convergence": {"status": "pending"}}
    return f"data: {json.dumps({'status': status, 'progress': progress, 'spent': {}})}\n\n"


def events(text: str) -> wire.Platform:
    headers = {"content-type": "text/event-stream"}
    return wire.Platform([httpx.Response(200, text=text, headers=headers)])


async def test_events_end_with_the_run() -> None:
    told = event("running", 20) + ": \n\n" + event("cancelled", 40) + event("running", 50)
    platform = events(told)
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        seen = [
            (event.status.value, event.progress.percent)
            async for event in client.optimizations.events(ID)
        ]
    assert seen == [("running", 20), ("cancelled", 40)]
    assert str(platform.last.url) == f"http://p/api/v1/optimizations/{ID}/events"


def test_a_stream_that_is_cut_says_so() -> None:
    with (
        Dspex("http://p", "k", transport=events(event("running", 1)).transport) as client,
        pytest.raises(Unavailable, match="before the run did"),
    ):
        list(client.optimizations.events(ID))


async def test_trials_follow_the_cursor() -> None:
    platform = wire.Platform([*wire.pages(*(wire.trial(number) for number in (1, 2, 3)))])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        found = [one.number async for one in client.optimizations.iterate_trials(ID)]
    assert found == [1, 2, 3]
    assert [request.url.params.get("cursor") for request in platform.asked] == [None, "1", "2"]


async def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizations, "_POLL_S", 0.001)
    running, done = wire.optimization(status="running"), wire.optimization()
    platform = wire.Platform([wire.ok(running), wire.ok(running), wire.ok(done)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        assert (await client.optimizations.wait(ID)).status is RunStatus.COMPLETED
    platform = wire.Platform([wire.ok(running)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        with pytest.raises(DeadlineExceeded, match="is still 'running'"):
            await client.optimizations.wait(ID, timeout_s=0.003)
