"""Following an evaluation: its events, its results page by page, waiting for it."""

from __future__ import annotations

from uuid import UUID

import httpx
import pytest

from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.client.aio import evaluations
from dspex_ray.core.errors import DeadlineExceeded, Unavailable
from dspex_ray.evaluation.model import EvaluationStatus
from tests.unit.client import wire

ID = UUID(wire.ID)
RUNNING = 'data: {"status":"running","progress":{"total":3,"done":1}}\n\n'
DONE = 'data: {"status":"completed","progress":{"total":3,"done":3}}\n\n'


def events(text: str) -> wire.Platform:
    headers = {"content-type": "text/event-stream"}
    return wire.Platform([httpx.Response(200, text=text, headers=headers)])


async def test_events_end_with_the_evaluation() -> None:
    platform = events(RUNNING + ": \n\n" + DONE + RUNNING)
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        seen = [
            (event.status.value, event.progress.done)
            async for event in client.evaluations.events(ID)
        ]
    assert seen == [("running", 1), ("completed", 3)]
    assert str(platform.last.url) == f"http://p/api/v1/evaluations/{ID}/events"


def test_a_stream_that_is_cut_says_so() -> None:
    with (
        Dspex("http://p", "k", transport=events(RUNNING).transport) as client,
        pytest.raises(Unavailable, match="before the evaluation did"),
    ):
        list(client.evaluations.events(ID))


async def test_results_follow_the_cursor() -> None:
    results = [wire.example_result(number=number) for number in range(3)]
    platform = wire.Platform([*wire.pages(*results)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        found = [one.number async for one in client.evaluations.iterate_results(ID, failed=False)]
    assert found == [0, 1, 2]
    assert [request.url.params.get("cursor") for request in platform.asked] == [None, "1", "2"]
    assert {request.url.params["failed"] for request in platform.asked} == {"false"}


async def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "_POLL_S", 0.001)
    running, done = wire.evaluation(status="running"), wire.evaluation()
    platform = wire.Platform([wire.ok(running), wire.ok(running), wire.ok(done)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        assert (await client.evaluations.wait(ID)).status is EvaluationStatus.COMPLETED
    platform = wire.Platform([wire.ok(running)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        with pytest.raises(DeadlineExceeded, match="is still 'running'"):
            await client.evaluations.wait(ID, timeout_s=0.003)
