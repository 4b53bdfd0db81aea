"""What a run's LM calls came to, kept until it is done: a run that goes on is paid for once.

An optimizer that is started again with the same seed asks the same again. Each answer is in
Postgres before the optimizer sees it, so a killed process loses only calls that were under way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple, Protocol

from dspex_ray.core.canonical import canonical_json, content_hash
from dspex_ray.core.clock import Clock
from dspex_ray.db.engine import Database
from dspex_ray.evaluation.batches import Batches
from dspex_ray.jobs.retry import is_infrastructure
from dspex_ray.optimization import store
from dspex_ray.optimization.budget import Amount, RunCancelled
from dspex_ray.optimization.runs import OptimizationRun
from dspex_ray.optimization.store import Answer
from dspex_ray.optimization.tally import Called, called
from dspex_ray.routing.recall import exact_content
from dspex_ray.routing.scope import RequestScope, find_scope, request_scope
from dspex_ray.routing.sink import Sink

_LOOK_AGAIN_S = 0.5
_NUL = rb"\u0000"  # Postgres stores none


class Asked(NamedTuple):
    """A request by its digest; `nth` counts equal ones, each of which is a sample of its own."""

    digest: str
    nth: int


class Answers(Protocol):
    """Where answers are kept."""

    async def find(self, asked: Asked) -> Answer | None: ...

    async def keep(self, answer: Answer) -> None:
        """Returns once it is safe."""
        ...


class _Waiting(NamedTuple):
    answer: Answer
    safe: asyncio.Future[None]


class PostgresAnswers:
    """Of one attempt of a run, on one event loop. All that come while a write is under way are
    written together by the next."""

    def __init__(self, database: Database, clock: Clock, run: OptimizationRun) -> None:
        self._database, self._clock, self._run = database, clock, run
        self._writing = Batches(self._write)

    async def find(self, asked: Asked) -> Answer | None:
        if self._run.attempt <= 1:  # nothing can be there yet
            return None
        while True:
            try:
                async with self._database.read() as conn:
                    return await store.find_answer(conn, self._run.id, asked.digest, asked.nth)
            except Exception as error:
                if not is_infrastructure(error):
                    raise
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def keep(self, answer: Answer) -> None:
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writing.put(_Waiting(answer, safe))
        await safe

    async def close(self) -> None:
        await self._writing.close()

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        error: Exception | None = None
        try:
            async with self._database.write() as conn:
                answers = [waiting.answer for waiting in batch]
                await store.keep_answers(conn, self._run, answers, self._clock.now())
        except Exception as failure:
            if is_infrastructure(failure):
                raise  # it is written again
            error = failure
        for waiting in batch:
            if waiting.safe.done():
                continue
            if error is None:
                waiting.safe.set_result(None)
            else:
                waiting.safe.set_exception(error)


@dataclass
class Calls:
    """All LM calls of one attempt: remembered, each in a scope of its own, stoppable at once."""

    answers: Answers
    clock: Clock
    sink: Sink
    loop: asyncio.AbstractEventLoop
    timeout_s: float
    capture_content: bool = False
    stopped: str | None = field(default=None, init=False)
    _nth: Counter[str] = field(default_factory=Counter, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)
    _scopes: set[RequestScope] = field(default_factory=set, init=False)
    _tasks: set[asyncio.Future[Any]] = field(default_factory=set, init=False)

    def stop(self, reason: str) -> None:
        """End what is under way; call it on the loop."""
        self.stopped = reason
        with self._lock:
            scopes = list(self._scopes)
        for scope in scopes:
            scope.cancel()
        for task in list(self._tasks):
            task.cancel()

    def asked(self, lm: str, request: Any) -> Asked:
        """Every request of the run gets a number among its equals."""
        return self.counted(content_hash({"lm": lm, "request": exact_content(request)}))

    def counted(self, digest: str) -> Asked:
        with self._lock:
            nth = self._nth[digest]
            self._nth[digest] += 1
        return Asked(digest, nth)

    @contextmanager
    def scope(self) -> Iterator[RequestScope]:
        """A request of its own for each call, so that it has a deadline of its own."""
        outer = find_scope()
        scope = RequestScope(
            deadline=self.clock.monotonic() + self.timeout_s,
            sink=self.sink,
            inputs={} if outer is None else outer.inputs,
            capture_content=self.capture_content,
        )
        with self._lock:
            self._scopes.add(scope)
        try:
            with request_scope(scope), self._told():
                yield scope
        finally:
            with self._lock:
                self._scopes.discard(scope)

    async def under_way(self, call: Any) -> Any:
        """The call's result, unless the run is stopped first."""
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        try:
            return await task
        finally:
            self._tasks.discard(task)
            if not task.done():
                task.cancel()
                with suppress(BaseException):
                    await task

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A call that was stopped with its run says so, past every `except Exception`."""
        if self.stopped is not None:
            raise RunCancelled(self.stopped)
        try:
            yield
        except asyncio.CancelledError:
            if self.stopped is not None:
                raise RunCancelled(self.stopped) from None
            raise


def remembered(lm: Any, name: str, calls: Calls) -> Any:
    """A copy of the metered `dspy.LM` that asks a model only what the run has no answer to yet.

    `name` tells the run's LMs apart: equal requests to two of them are two.
    """
    engine = AsyncRemembering(lm._async_engine_spec, name, calls)
    return lm.copy(engine=Remembering(lm.engine, name, calls), async_engine=engine)


Vectors = list[list[float]]


async def remembered_vectors(
    name: str,
    texts: Sequence[str],
    calls: Calls,
    embed: Callable[[], Awaitable[tuple[Vectors, Amount]]],
) -> Vectors:
    """Embeddings of the texts, made (and paid for) only when the run does not have them yet."""
    asked = calls.counted(content_hash({"lm": name, "texts": list(texts)}))
    found = await calls.answers.find(asked)
    if found is not None:
        vectors: Vectors = found.answer["vectors"]
        return vectors
    began = calls.clock.monotonic()
    paid: tuple[Vectors, Amount] = await calls.under_way(embed())
    made, amount = paid
    took_ms = (calls.clock.monotonic() - began) * 1000
    kept = {"vectors": made}
    answer = Answer(asked.digest, asked.nth, kept, amount.tokens, amount.usd, took_ms)
    await calls.answers.keep(answer)
    return made


class _Engine:
    def __init__(self, engine: Any, name: str, calls: Calls) -> None:
        self._engine, self._name, self._calls = engine, name, calls
        self.supports_response_schema = getattr(engine, "supports_response_schema", False)
        self.supported_params: frozenset[str] = getattr(engine, "supported_params", frozenset())


class AsyncRemembering(_Engine):
    """For `acall`."""

    async def complete(self, request: Any) -> Any:
        asked = self._calls.asked(self._name, request)
        with called() as call:
            found = await self._calls.answers.find(asked)
            if found is not None:
                return _recalled(found, call)
            with self._calls.scope():
                response = await self._calls.under_way(self._engine.complete(request))
            answer = _answer(asked, response, call)
            if answer is not None:
                await self._calls.answers.keep(answer)
        return response

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in _events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        await self._engine.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncRemembering:
        """Optimizers copy programs with their LMs; a copy remembers the same."""
        return self


class Remembering(_Engine):
    """For DSPy's threads."""

    def complete(self, request: Any) -> Any:
        asked = self._calls.asked(self._name, request)
        with called() as call:
            found = self._on_loop(lambda: self._calls.answers.find(asked))
            if found is not None:
                return _recalled(found, call)
            with self._calls.scope():
                response = self._engine.complete(request)
            answer = _answer(asked, response, call)
            if answer is not None:
                self._on_loop(lambda: self._calls.answers.keep(answer))
        return response

    def stream(self, request: Any) -> Iterator[Any]:
        yield from _events(self.complete(request))

    def close(self) -> None:
        self._engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Remembering:
        return self

    def _on_loop(self, make: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self._calls.loop).result()


def _recalled(found: Answer, call: Called) -> Any:
    """With what it came to when it was paid for."""
    call.amount, call.latency_ms = Amount(found.tokens, found.usd), found.latency_ms
    return _unpacked(found.answer)


def _answer(asked: Asked, response: Any, call: Called) -> Answer | None:
    """None for what JSON cannot hold: that is paid for again."""
    packed = _packed(response)
    if packed is None:
        return None
    tokens, usd = call.amount or Amount(0, None)
    return Answer(asked.digest, asked.nth, packed, tokens, usd, call.latency_ms)


def _packed(response: Any) -> dict[str, Any] | None:
    """With its usage, which a replay is metered by; without the provider's raw body."""
    from dspy._vendor.lm15.serde import response_to_dict

    try:
        packed: dict[str, Any] = response_to_dict(response)
        text = canonical_json(packed)
    except (TypeError, ValueError):
        return None
    return None if _NUL in text else packed


def _unpacked(answer: Mapping[str, Any]) -> Any:
    from dspy._vendor.lm15.serde import response_from_dict

    return response_from_dict(dict(answer))


def _events(response: Any) -> Iterator[Any]:
    from dspy._vendor.lm15.result import response_to_events

    yield from response_to_events(response)
