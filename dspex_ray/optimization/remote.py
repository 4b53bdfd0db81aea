"""A program's LMs where it has no models to call: each call is asked for at the run's own process.

To a program they look as the run's LMs do: the same name, the same defaults, the same abilities.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import dspy
from pydantic import Field

from dspex_ray.core.noun import Noun
from dspex_ray.optimization.tally import called
from dspex_ray.optimization.wire import Ask, AskVectors, Told
from dspex_ray.programs.runtime import current_predictor


class Line(Protocol):
    """The way to the run's own process."""

    async def complete(self, ask: Ask) -> Told: ...

    async def embed(self, ask: AskVectors) -> Told: ...


class LmLooks(Noun):
    """What a program sees of an LM."""

    model: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    supports_response_schema: bool = False
    supported_params: tuple[str, ...] = ()


def looks_of(lm: Any) -> LmLooks:
    """Of a `dspy.LM` with an engine of its own."""
    return LmLooks(
        model=lm.model,
        kwargs={name: value for name, value in lm.kwargs.items() if value is not None},
        supports_response_schema=bool(getattr(lm.engine, "supports_response_schema", False)),
        supported_params=tuple(sorted(getattr(lm.engine, "supported_params", ()))),
    )


@dataclass(frozen=True)
class Caller:
    """One take of one program run: whose calls these are. `loop` is where they are sent from."""

    line: Line
    loop: asyncio.AbstractEventLoop
    run: str
    take: str


def remote_lm(
    looks: LmLooks,
    caller: Caller,
    *,
    judge: str | None = None,
    models: Mapping[str, str] | None = None,
) -> Any:
    """The `dspy.LM` of that judge, or of the program with these pins, for one take of one run."""
    pins = models or {}
    return dspy.LM(
        looks.model,
        engine=RemoteEngine(looks, caller, judge, pins),
        async_engine=AsyncRemoteEngine(looks, caller, judge, pins),
        cache=False,
        num_retries=0,
        **looks.kwargs,
    )


class _Engine:
    def __init__(
        self, looks: LmLooks, caller: Caller, judge: str | None, models: Mapping[str, str]
    ) -> None:
        self._caller, self._judge, self._models = caller, judge, dict(models)
        self.supports_response_schema = looks.supports_response_schema
        self.supported_params = frozenset(looks.supported_params)

    def _ask(self, request: Any) -> Ask:
        from dspy._vendor.lm15.serde import request_to_dict

        return Ask(
            run=self._caller.run,
            take=self._caller.take,
            judge=self._judge,
            models=self._models,
            predictor=current_predictor(),
            request=request_to_dict(request),
        )


class AsyncRemoteEngine(_Engine):
    """For `acall`."""

    async def complete(self, request: Any) -> Any:
        with called() as call:
            told = await self._caller.line.complete(self._ask(request))
            call.amount, call.latency_ms = told.amount, told.latency_ms
        return _response(told)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in _events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """The line is the process's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncRemoteEngine:
        """A copied program calls for the same run."""
        return self


class RemoteEngine(_Engine):
    """For DSPy's threads: the call is sent from the event loop, this thread waits for it."""

    def complete(self, request: Any) -> Any:
        with called() as call:
            sent = self._caller.line.complete(self._ask(request))
            told = asyncio.run_coroutine_threadsafe(sent, self._caller.loop).result()
            call.amount, call.latency_ms = told.amount, told.latency_ms
        return _response(told)

    def stream(self, request: Any) -> Iterator[Any]:
        yield from _events(self.complete(request))

    def close(self) -> None:
        """The line is the process's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteEngine:
        return self


@dataclass(frozen=True)
class RemoteScoring:
    """`evaluation.metrics.MetricContext` of one take of one run. A judge looks as the program's LM
    does, under its own name."""

    caller: Caller
    looks: LmLooks
    inputs: frozenset[str]
    threads: Executor

    def lm(self, model: str) -> Any:
        looks = LmLooks(
            model=f"router/{model}",
            supports_response_schema=self.looks.supports_response_schema,
            supported_params=self.looks.supported_params,
        )
        return remote_lm(looks, self.caller, judge=model)

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        caller = self.caller
        ask = AskVectors(run=caller.run, take=caller.take, model=model, texts=texts)
        vectors: list[list[float]] = (await caller.line.embed(ask)).raised()
        return vectors


def _response(told: Told) -> Any:
    from dspy._vendor.lm15.serde import response_from_dict

    return response_from_dict(dict(told.raised()))


def _events(response: Any) -> Iterator[Any]:
    from dspy._vendor.lm15.result import response_to_events

    yield from response_to_events(response)
