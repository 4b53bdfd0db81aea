"""The SDK and the command line against the real data plane, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dspex_ray.cli.main import app
from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.core import errors
from dspex_ray.core.ids import DEFAULT_PROJECT
from dspex_ray.programs.model import ProgramSource
from dspex_ray.serving.model import BatchFailure, FieldDelta, Outputs, Prediction
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.traces.model import (
    ExecutionRecord,
    ExecutionStatus,
    FeedbackRecord,
    NewFeedback,
)

QA = ProgramSource(module={"type": "predict", "signature": "question -> answer"}, adapter="json")
HELLO: Any = [{"role": "user", "content": "hi"}]


def answer(prompt: Prompt) -> str:
    """What a DSPy JSON prompt wants, or plain text for a plain one."""
    text = prompt.text if hasattr(prompt, "text") else str(prompt)
    return json.dumps({"answer": "forty-two"}) if "`answer`" in text else "hello there friend"


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(answer, retry_after_s=0.05, slow_s=0.2) as simulator:
        yield simulator


@pytest.fixture
def plane(tmp_path: Path, sim: ProviderSimulator) -> Iterator[DataPlane]:
    """With the model `m` and the program `qa` on it."""
    with DataPlane(tmp_path / "spool") as started:
        started.assign(started.add_program("qa", QA), started.add_model("m", sim.url))
        yield started


@pytest.fixture
async def dspex(plane: DataPlane) -> AsyncIterator[AsyncDspex]:
    async with AsyncDspex(plane.url, plane.key, timeout_s=20) as client:
        yield client


def executions(plane: DataPlane) -> list[ExecutionRecord]:
    return [record for record in plane.records() if isinstance(record, ExecutionRecord)]


async def test_a_prediction(plane: DataPlane, dspex: AsyncDspex) -> None:
    found = await dspex.programs.predict(
        "qa@production", {"question": "why?"}, session="user-1", tags={"team": "a"}, timeout_s=9
    )
    assert found.outputs == {"answer": "forty-two"}
    assert (found.program, found.version, found.model) == ("qa", 1, "m")
    (record,) = executions(plane)
    assert (record.id, record.unit, record.tags) == (found.execution_id, "user-1", {"team": "a"})
    assert record.lm_calls[0].attempts[0].cost_usd == found.usage.cost_usd


async def test_a_streamed_prediction(dspex: AsyncDspex) -> None:
    events = [event async for event in dspex.programs.stream("qa", {"question": "why?"})]
    *deltas, last = events
    assert isinstance(last, Outputs)
    assert last.outputs == {"answer": "forty-two"}
    texts = [event.text for event in deltas if isinstance(event, FieldDelta)]
    assert "".join(texts) == "forty-two"


async def test_a_batch_and_feedback(plane: DataPlane, dspex: AsyncDspex) -> None:
    result = await dspex.programs.batch("qa", [{"question": "a"}, {"qestion": "b"}], concurrency=2)
    good, bad = result.items
    assert (result.succeeded, result.failed) == (1, 1)
    assert isinstance(good, Prediction)
    assert isinstance(bad, BatchFailure)
    assert bad.error["code"] == "invalid"
    receipt = await dspex.programs.feedback("qa", good.execution_id, NewFeedback(score=1))
    (feedback,) = (r for r in plane.records() if isinstance(r, FeedbackRecord))
    assert (feedback.id, feedback.execution_id) == (receipt.feedback_id, good.execution_id)


async def test_chat_plain_and_streamed(dspex: AsyncDspex) -> None:
    whole = await dspex.chat.complete("m", HELLO, n=2)
    assert [choice.message.content for choice in whole.choices] == ["hello there friend"] * 2
    pieces = [piece async for piece in dspex.chat.stream("m", HELLO)]
    assert "".join(piece.text for piece in pieces) == "hello there friend"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens > 0
    assert (await dspex.chat.complete("program/qa", HELLO)).text == "forty-two"


async def test_what_can_be_asked_of_chat(plane: DataPlane, dspex: AsyncDspex) -> None:
    plane.assign("cheap", plane.configuration.snapshot.model(DEFAULT_PROJECT, "m"))
    found = (await dspex.chat.models()).data
    assert [(model.id, model.owned_by) for model in found] == [
        ("m", "model"),
        ("program/qa", "program"),
        ("route/cheap", "route"),
    ]


async def test_health(dspex: AsyncDspex) -> None:
    await dspex.healthz()
    state = await dspex.readyz()
    assert state.ready
    assert state.snapshot_version > 0


async def test_what_is_refused(plane: DataPlane, dspex: AsyncDspex) -> None:
    with pytest.raises(errors.NotFound):
        await dspex.programs.predict("nope", {})
    with pytest.raises(errors.Invalid) as caught:
        await dspex.programs.predict("qa", {})
    assert caught.value.field is not None
    assert "question" in caught.value.field
    async with AsyncDspex(plane.url, "dspex_0_wrong") as stranger:
        with pytest.raises(errors.Denied) as denied:
            await stranger.chat.complete("m", HELLO)
    assert denied.value.details["reason"] == "unauthenticated"
    with pytest.raises(errors.NotFound):
        [event async for event in dspex.programs.stream("nope", {})]


async def test_a_stream_that_breaks_is_told(dspex: AsyncDspex, sim: ProviderSimulator) -> None:
    sim.always(Fault.SSE_ERROR)
    with pytest.raises(errors.ProviderDown):
        [piece async for piece in dspex.chat.stream("m", HELLO)]


async def test_leaving_a_stream_cancels_the_call(
    plane: DataPlane, dspex: AsyncDspex, sim: ProviderSimulator
) -> None:
    sim.always(Fault.HANG)

    async def ask() -> None:
        async with aclosing(dspex.chat.stream("m", HELLO)) as pieces:
            async for _ in pieces:
                pass

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(10):
        while sim.disconnects == 0 or not executions(plane):
            await asyncio.sleep(0.05)
    assert executions(plane)[0].status is ExecutionStatus.CANCELLED


async def test_a_deadline_of_the_platform(dspex: AsyncDspex, sim: ProviderSimulator) -> None:
    sim.always(Fault.HANG)
    with pytest.raises(errors.DeadlineExceeded):
        await dspex.programs.predict("qa", {"question": "why?"}, timeout_s=0.2)


async def test_patience_of_the_client(plane: DataPlane, sim: ProviderSimulator) -> None:
    sim.always(Fault.HANG)
    async with AsyncDspex(plane.url, plane.key, timeout_s=0.3) as hasty:
        with pytest.raises(errors.DeadlineExceeded, match="has not answered in time"):
            await hasty.chat.complete("m", HELLO)


def test_nobody_there() -> None:
    with socket.socket() as reserved:  # bound, not listening: connecting is refused
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with Dspex(url, "k", max_retries=1) as client, pytest.raises(errors.Unavailable) as caught:
            client.healthz()
    assert url in caught.value.message


def test_the_generated_client(plane: DataPlane) -> None:
    with Dspex(plane.url, plane.key, timeout_s=20) as client:
        assert client.programs.predict("qa", {"question": "?"}).outputs == {"answer": "forty-two"}
        *_, last = client.programs.stream("qa", {"question": "?"})
        assert isinstance(last, Outputs)
        assert client.chat.complete("m", HELLO).text == "hello there friend"


def run(plane: DataPlane, *arguments: str) -> Any:
    environment = {"DSPEX_URL": plane.url, "DSPEX_API_KEY": plane.key, "TERM": "dumb"}
    return CliRunner(env=environment).invoke(app, arguments)


def test_the_command_line(plane: DataPlane) -> None:
    ran = run(plane, "program", "run", "qa", "-i", "question=why?", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["outputs"] == {"answer": "forty-two"}
    ran = run(plane, "program", "run", "qa", "-i", "question=why?", "--stream")
    assert ran.stdout.startswith("\nmain.answer: forty-two\n")
    assert run(plane, "chat", "m", "hi", "--stream").stdout == "hello there friend\n"
    ran = run(plane, "program", "run", "nope", "-i", "a=1")
    assert (ran.exit_code, ran.stdout) == (3, "")
    ran = run(plane, "--api-key", "dspex_0_wrong", "chat", "m", "hi")
    assert (ran.exit_code, ran.stdout) == (4, "")
