"""The LM calls of program runs that are elsewhere: made here, where ledger, memory and router are.

A run that is repeated, since its process died, asks the same again: it gets what was answered, and
waits with the first asking for what is under way. Nothing is paid for twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from dspex_ray.core.canonical import content_hash
from dspex_ray.optimization.budget import NOTHING, RunHalted
from dspex_ray.optimization.tally import called
from dspex_ray.optimization.wire import Ask, AskVectors, Halt, Told, fault_of, halt_of
from dspex_ray.programs.runtime import current_predictor

_caller: ContextVar[str | None] = ContextVar("dspex_ray_remote_predictor", default=None)


def calling_predictor() -> str | None:
    """The predictor whose LM call this is, of a run that is elsewhere too."""
    return _caller.get() or current_predictor()


class Serving(Protocol):
    """How the calls are made. Raises what the call raises, RunHalted too."""

    def engine(self, judge: str | None, models: Mapping[str, str]) -> Any:
        """The async engine of that judge, or of the program under these pins; metered and
        remembered."""
        ...

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]: ...


@dataclass
class _Run:
    """A program run: what it asked for, by content and how often it was asked before."""

    made: dict[tuple[str, int], asyncio.Future[Told]] = field(default_factory=dict)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def place(self, take: str, digest: str) -> tuple[str, int]:
        """The nth of equal calls of this take."""
        self.asked[take, digest] += 1
        return digest, self.asked[take, digest]


class CallDoor:
    """Of one process; runs of one attempt at a time. On one event loop."""

    def __init__(self) -> None:
        self._serving: Serving | None = None
        self._runs: dict[str, _Run] = {}
        self._tokens = 0

    @contextmanager
    def opened(self, serving: Serving) -> Iterator[None]:
        """While it is open, calls are made by this."""
        self._serving = serving
        try:
            yield
        finally:
            self._serving = None

    @contextmanager
    def run(self) -> Iterator[str]:
        """The token of a program run, whose calls are kept until it is over."""
        self._tokens += 1
        token = str(self._tokens)
        self._runs[token] = _Run()
        try:
            yield token
        finally:
            del self._runs[token]

    async def complete(self, ask: Ask) -> Told:
        """What the call came to; never raises, but when it is cancelled."""
        digest = content_hash([ask.judge, ask.models, ask.predictor, ask.request])
        return await self._once(ask.run, ask.take, digest, lambda: self._complete(ask))

    async def embed(self, ask: AskVectors) -> Told:
        digest = content_hash([ask.model, ask.texts])
        return await self._once(ask.run, ask.take, digest, lambda: self._embed(ask))

    async def _once(
        self, token: str, take: str, digest: str, make: Callable[[], Awaitable[Any]]
    ) -> Told:
        run = self._runs.get(token)
        if run is None:  # asked by a process that was given up
            return Told(halt=Halt(reason="the program run is over"))
        place = run.place(take, digest)
        if place not in run.made:
            run.made[place] = asyncio.ensure_future(_told(make))
        return await asyncio.shield(run.made[place])

    async def _complete(self, ask: Ask) -> Any:
        from dspy._vendor.lm15.serde import request_from_dict, response_to_dict

        assert self._serving is not None  # nobody holds a token otherwise
        engine = self._serving.engine(ask.judge, ask.models)
        _caller.set(ask.predictor)  # in a task of its own
        return response_to_dict(await engine.complete(request_from_dict(ask.request)))

    async def _embed(self, ask: AskVectors) -> Any:
        assert self._serving is not None
        return await self._serving.embed(ask.model, ask.texts)


async def _told(make: Callable[[], Awaitable[Any]]) -> Told:
    with called() as call:
        try:
            told = Told(answer=await make())
        except RunHalted as halt:
            told = Told(halt=halt_of(halt))
        except Exception as error:
            told = Told(fault=fault_of(error))
    tokens, usd = call.amount or NOTHING
    return told.model_copy(update={"tokens": tokens, "usd": usd, "latency_ms": call.latency_ms})
