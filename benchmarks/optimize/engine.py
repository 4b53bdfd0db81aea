"""The simulated model as a DSPy engine in this process, with a fixed latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
from dspy import lm15

from benchmarks.optimize.simulated import SimulatedModel, Turn


def simulated_lm(model: SimulatedModel, latency_s: float = 0.0) -> Any:
    """A `dspy.LM` without cache or retries."""
    return dspy.LM(
        "simulated/model",
        engine=_Engine(model, latency_s),
        async_engine=_AsyncEngine(model, latency_s),
        cache=False,
        num_retries=0,
    )


class _Answering:
    supports_response_schema = False
    supported_params = frozenset({"temperature", "max_tokens"})

    def __init__(self, model: SimulatedModel, latency_s: float) -> None:
        self._model, self._latency_s = model, latency_s

    def _response(self, request: Any) -> Any:
        turns = [Turn(message.role, message.text or "") for message in request.messages]
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(self._model.answer(str(request.system or ""), turns)),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=200, output_tokens=10),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _Answering:
        """Optimizers copy programs with their LMs: a copy asks the same model."""
        return self


class _Engine(_Answering):
    def complete(self, request: Any) -> Any:
        time.sleep(self._latency_s)
        return self._response(request)

    def stream(self, request: Any) -> Iterator[Any]:
        raise NotImplementedError("no optimizer streams")

    def close(self) -> None:
        """There is nothing to close."""


class _AsyncEngine(_Answering):
    async def complete(self, request: Any) -> Any:
        await asyncio.sleep(self._latency_s)
        return self._response(request)

    def stream(self, request: Any) -> AsyncIterator[Any]:
        raise NotImplementedError("no optimizer streams")

    async def aclose(self) -> None:
        """There is nothing to close."""
