"""A language model that answers from a script, by the contract of DSPy's engines."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import dspy
from dspy import lm15

Answer = str | dict[str, Any] | Exception
Script = Callable[[Any], Answer] | Iterable[Answer]


class FakeEngine:
    """The sync engine; `asynchronous` is its async counterpart, of the same script and record.

    The script is a function of the lm15 Request, or answers in order: text, a dict (sent as
    JSON), or an exception to raise. `requests` records every Request. A stream gives the text
    word by word.
    """

    supports_response_schema = True
    supported_params = frozenset(
        {"temperature", "max_tokens", "top_p", "seed", "stop", "response_format"}
    )

    def __init__(self, script: Script) -> None:
        self._script = script if callable(script) else _in_order(script)
        self._lock = threading.Lock()
        self.requests: list[Any] = []
        self.asynchronous = AsyncFakeEngine(self)

    def complete(self, request: Any) -> Any:
        with self._lock:
            self.requests.append(request)
        answer = self._script(request)
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(text),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=len(request.messages), output_tokens=1),
        )

    def stream(self, request: Any) -> Iterator[Any]:
        response = self.complete(request)
        yield lm15.StreamStartEvent(id=None, model=request.model)
        for word in re.findall(r"\S+\s*|\s+", response.text or ""):
            yield lm15.StreamDeltaEvent(delta=lm15.TextDelta(text=word))
        yield lm15.StreamEndEvent(finish_reason="stop", usage=response.usage)

    def close(self) -> None:
        pass


class AsyncFakeEngine:
    """`before` is awaited before each answer and each streamed word: a place to wait or switch."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.before: Callable[[], Any] | None = None

    async def complete(self, request: Any) -> Any:
        await self._wait()
        return self._engine.complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in self._engine.stream(request):
            await self._wait()
            yield event

    async def aclose(self) -> None:
        pass

    async def _wait(self) -> None:
        if self.before is not None:
            await self.before()


def fake_lm(answers: Script | FakeEngine) -> Any:
    """A `dspy.LM` on a FakeEngine (its `engine`), without cache or retries."""
    engine = answers if isinstance(answers, FakeEngine) else FakeEngine(answers)
    return dspy.LM(
        "fake/model", engine=engine, async_engine=engine.asynchronous, cache=False, num_retries=0
    )


def _in_order(answers: Iterable[Answer]) -> Callable[[Any], Answer]:
    left = iter(answers)
    return lambda _request: next(left)


def prompt_of(request: Any) -> str:
    """All text of a request, system first, a line between messages."""
    return "\n".join([str(request.system or ""), *(m.text or "" for m in request.messages)])


def last_input(request: Any) -> str:
    """The text of the request's last message: the inputs of this call."""
    return str(request.messages[-1].text)


def chat_answer(**fields: Any) -> str:
    """Fields as DSPy's ChatAdapter expects them back."""
    parts = [f"[[ ## {name} ## ]]\n{value}\n" for name, value in fields.items()]
    return "\n".join([*parts, "[[ ## completed ## ]]"])
