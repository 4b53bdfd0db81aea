from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from dspex_ray.core.errors import BudgetSpent, Invalid, OutputInvalid, ProviderDown
from dspex_ray.programs.model import ProgramSource
from dspex_ray.programs.runtime import (
    LoadedProgram,
    current_predictor,
    load_program,
    run_program,
    stream_program,
)
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, chat_answer, fake_lm, last_input, prompt_of

SAMPLES = "dspex_ray.testing.sample_programs"
ALLOWED = ("dspex_ray.testing",)
QUESTION = {
    "signature": "number: int, hint?: str -> echo: int",
}
CHAIN: dict[str, Any] = {
    "first": {"signature": "number: int -> half: int"},
    "other": {"signature": "number: int -> twin: int"},
    "last": {
        "type": "chain_of_thought",
        "signature": "half: int, twin: int -> total: int",
        "inputs": {"half": "first.half", "twin": "other.twin"},
    },
}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4, thread_name_prefix="forward") as pool:
        yield pool


def load(**source: Any) -> LoadedProgram:
    artifact = resolve_source(ProgramSource(**source), allowed_packages=ALLOWED)
    return load_program(artifact, allowed_packages=ALLOWED)


def value(request: Any, field: str) -> str:
    """The value of an input field in a chat prompt."""
    return last_input(request).split(f"[[ ## {field} ## ]]\n")[1].split("\n")[0]


class Recorder:
    """Answers the chain, and records which predictor each request came from, as it says itself."""

    def __init__(self) -> None:
        self.callers: Counter[tuple[str | None, str]] = Counter()

    def __call__(self, request: Any) -> Any:
        wanted = last_input(request).split("starting with the field `[[ ## ")[1].split(" ")[0]
        self.callers[current_predictor(), wanted] += 1
        if wanted == "half":
            return chat_answer(half=int(value(request, "number")) * 10)
        if wanted == "twin":
            return chat_answer(twin=int(value(request, "number")) * 1000)
        total = int(value(request, "half")) + int(value(request, "twin"))
        return chat_answer(reasoning="sum", total=total)


async def test_a_hundred_concurrent_runs_never_mix(threads: ThreadPoolExecutor) -> None:
    program, recorder = load(modules=CHAIN), Recorder()
    engine = FakeEngine(recorder)
    engine.asynchronous.before = lambda: asyncio.sleep(0)
    lm = fake_lm(engine)
    runs = [run_program(program, {"number": n}, lm=lm, threads=threads) for n in range(100)]
    assert await asyncio.gather(*runs) == [{"total": n * 1010} for n in range(100)]
    assert recorder.callers == {
        ("first", "half"): 100,
        ("other", "twin"): 100,
        ("last.predict", "reasoning"): 100,
    }
    assert current_predictor() is None


async def test_each_run_has_its_own_lm(threads: ThreadPoolExecutor) -> None:
    program = load(module=QUESTION)
    lms = [fake_lm(lambda _, n=n: chat_answer(echo=n)) for n in range(50)]
    runs = [run_program(program, {"number": 0}, lm=lm, threads=threads) for lm in lms]
    assert await asyncio.gather(*runs) == [{"echo": n} for n in range(50)]


_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")


async def test_sync_forwards_run_in_threads_and_keep_their_context(
    threads: ThreadPoolExecutor,
) -> None:
    program, seen = load(import_path=f"{SAMPLES}:TwoSteps"), Counter[tuple[str | None, bool]]()

    def answer(request: Any) -> Any:
        in_pool = threading.current_thread().name.startswith("forward")
        seen[current_predictor(), in_pool] += 1
        mine = _request_id.get()
        assert mine in last_input(request)
        return chat_answer(draft=mine, reasoning="r", answer=mine, sure=True)

    lm = fake_lm(answer)

    async def run(number: int) -> Any:
        _request_id.set(f"<{number}>")
        return await run_program(program, {"question": f"<{number}>"}, lm=lm, threads=threads)

    results = await asyncio.gather(*(run(n) for n in range(100)))
    assert results == [{"answer": f"<{n}>", "sure": True} for n in range(100)]
    assert seen == {("draft", True): 100, ("judge.predict", True): 100}
    assert not program.asynchronous


async def test_predictors_are_known_in_threads_that_dspy_starts(
    threads: ThreadPoolExecutor,
) -> None:
    program = load(
        import_path=f"{SAMPLES}:Everywhere", signature="words: list[str] -> shouts: list[str]"
    )
    callers: Counter[str | None] = Counter()

    def answer(request: Any) -> Any:
        callers[current_predictor()] += 1
        return chat_answer(shout=value(request, "word").upper())

    outputs = await run_program(program, {"words": ["a", "b"]}, lm=fake_lm(answer), threads=threads)
    assert outputs == {"shouts": ["A", "B", "LATE"]}
    assert callers == {"upper": 2, None: 1}


async def test_code_that_keeps_state_gets_a_copy_each_time(threads: ThreadPoolExecutor) -> None:
    program = load(import_path=f"{SAMPLES}:Topic", signature="text, k: int = 3 -> topic, runs: int")
    lm = fake_lm(lambda _: chat_answer(topic="sport"))
    for _ in range(3):
        outputs = await run_program(program, {"text": "x"}, lm=lm, threads=threads)
        assert outputs == {"topic": "sport", "runs": 1}
    assert (program.asynchronous, program.module.runs) == (True, 0)


async def test_nothing_accumulates(threads: ThreadPoolExecutor) -> None:
    program, lm = load(modules=CHAIN), fake_lm(Recorder())
    before = len(dspy.settings.trace)
    await run_program(program, {"number": 1}, lm=lm, threads=threads)
    assert (lm.history, program.module.history, len(dspy.settings.trace)) == ([], [], before)
    assert all(predictor.history == [] for predictor in program.module.predictors())


async def test_optional_inputs_that_are_absent_are_not_in_the_prompt(
    threads: ThreadPoolExecutor,
) -> None:
    program, engine = load(module=QUESTION), FakeEngine(lambda _: chat_answer(echo=1))
    await run_program(program, {"number": 1}, lm=fake_lm(engine), threads=threads)
    await run_program(program, {"number": 1, "hint": "h"}, lm=fake_lm(engine), threads=threads)
    absent, present = map(last_input, engine.requests)
    assert "hint" not in absent
    assert "[[ ## hint ## ]]\nh" in present


async def test_settings_reach_the_engine(threads: ThreadPoolExecutor) -> None:
    program, seen = load(module=QUESTION), []

    def answer(_request: Any) -> str:
        seen.append(dspy.settings.get("dspex_route"))
        return chat_answer(echo=1)

    await run_program(
        program, {"number": 1}, lm=fake_lm(answer), threads=threads, settings={"dspex_route": "r"}
    )
    assert seen == ["r"]


async def test_bad_inputs_never_reach_a_model(threads: ThreadPoolExecutor) -> None:
    engine = FakeEngine([])
    with pytest.raises(Invalid, match=r"^Invalid input `number`"):
        await run_program(
            load(module=QUESTION), {"number": "x"}, lm=fake_lm(engine), threads=threads
        )
    assert engine.requests == []


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            "a secret answer",
            OutputInvalid,
            "The model's answer does not hold the fields echo as asked for",
        ),
        (
            chat_answer(echo="secret"),
            OutputInvalid,
            "The model's answer does not hold the fields echo as asked for",
        ),
        (BudgetSpent("spent", limit=3), BudgetSpent, "spent"),
        (ValueError("secret"), ProviderDown, "The language model failed: unexpected"),
        (dspy.lm15.RateLimitError("secret"), ProviderDown, "The language model failed: rate_limit"),
    ],
)
async def test_failures_are_ours_and_quote_nothing(
    threads: ThreadPoolExecutor, answer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        await run_program(
            load(module=QUESTION), {"number": 1}, lm=fake_lm([answer]), threads=threads
        )
    assert str(caught.value) == message
    assert caught.value.__context__ is None


async def test_mistakes_of_the_program_are_its_own(threads: ThreadPoolExecutor) -> None:
    program = load(import_path=f"{SAMPLES}:Careless")
    with pytest.raises(KeyError, match="its own mistake"):
        await run_program(program, {"question": "fail"}, lm=fake_lm([]), threads=threads)
    with pytest.raises(OutputInvalid, match=r"^The program returned str, not a Prediction$"):
        await run_program(program, {"question": "q"}, lm=fake_lm([]), threads=threads)


async def events_of(program: LoadedProgram, number: int, lm: Any, threads: Any) -> list[Any]:
    stream = stream_program(program, {"number": number}, lm=lm, threads=threads)
    return [event async for event in stream]


def joined(events: list[Any]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for event in events:
        if event["type"] == "delta":
            key = (event["predictor"], event["field"])
            found[key] = found.get(key, "") + event["text"]
    return found


async def test_streams_tell_predictors_and_fields_apart(threads: ThreadPoolExecutor) -> None:
    program, engine = load(modules=CHAIN), FakeEngine(Recorder())
    engine.asynchronous.before = lambda: asyncio.sleep(0)
    lm = fake_lm(engine)
    streams = await asyncio.gather(*(events_of(program, n, lm, threads) for n in range(20)))
    for number, events in enumerate(streams):
        assert joined(events) == {
            ("first", "half"): str(number * 10),
            ("other", "twin"): str(number * 1000),
            ("last.predict", "reasoning"): "sum",
            ("last.predict", "total"): str(number * 1010),
        }
        assert events[-1] == {"type": "outputs", "outputs": {"total": number * 1010}}


async def test_json_answers_stream_as_text(threads: ThreadPoolExecutor) -> None:
    program = load(module={"signature": "number: int -> text"}, adapter="minimal")
    said = 'He said "one\n two" and left'
    events = await events_of(program, 1, fake_lm([{"text": said}]), threads)
    assert joined(events) == {("main", "text"): said}
    assert len(events) > 3


async def test_closing_a_stream_cancels_the_upstream_call(threads: ThreadPoolExecutor) -> None:
    program = load(module={"signature": "number: int -> text"})
    engine, shown, ended = FakeEngine([chat_answer(text="one " * 99)]), asyncio.Event(), []

    async def hang_once_shown() -> None:
        try:
            await asyncio.sleep(60 if shown.is_set() else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    engine.asynchronous.before = hang_once_shown
    stream = stream_program(program, {"number": 1}, lm=fake_lm(engine), threads=threads)
    assert (await anext(stream))["type"] == "delta"
    shown.set()
    await asyncio.sleep(0.01)
    await stream.aclose()
    assert ended == ["cancelled"]


async def test_a_failure_ends_the_stream_after_its_deltas(threads: ThreadPoolExecutor) -> None:
    program = load(module={"signature": "number: int -> text, n: int"})
    lm, events = fake_lm([chat_answer(text="shown", n="not a number")]), []

    async def consume() -> None:
        async for event in stream_program(program, {"number": 1}, lm=lm, threads=threads):
            events.append(event)

    with pytest.raises(OutputInvalid, match="does not hold the fields text, n"):
        await consume()
    assert joined(events)["main", "text"] == "shown"
    with pytest.raises(Invalid, match=r"^Missing required inputs: number$"):
        await anext(stream_program(program, {}, lm=lm, threads=threads))


async def test_a_sync_program_streams_its_outputs_only(threads: ThreadPoolExecutor) -> None:
    program = load(import_path=f"{SAMPLES}:TwoSteps")
    lm = fake_lm(lambda _: chat_answer(draft="d", reasoning="r", answer="a", sure=True))
    stream = stream_program(program, {"question": "q"}, lm=lm, threads=threads)
    assert [event async for event in stream] == [
        {"type": "outputs", "outputs": {"answer": "a", "sure": True}}
    ]


async def test_cancelling_a_run_cancels_the_upstream_call(threads: ThreadPoolExecutor) -> None:
    program, engine, ended = load(module=QUESTION), FakeEngine([]), asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    engine.asynchronous.before = hang
    run = asyncio.create_task(
        run_program(program, {"number": 1}, lm=fake_lm(engine), threads=threads)
    )
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ended.is_set()


async def test_the_prompt_is_the_signatures(threads: ThreadPoolExecutor) -> None:
    program, engine = load(module=QUESTION), FakeEngine(lambda _: chat_answer(echo=1))
    await run_program(program, {"number": 41}, lm=fake_lm(engine), threads=threads)
    assert "`number` (int)" in prompt_of(engine.requests[0])
    assert value(engine.requests[0], "number") == "41"
