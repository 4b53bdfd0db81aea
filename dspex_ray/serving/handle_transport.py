"""Chat requests carried to an object instead of a socket: a model hosted by this instance.

The model engine keeps lm15's wire code and errors; only the bytes take another way. In production
the object wraps a Ray DeploymentHandle.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol, TypeVar

from dspy._vendor.lm15.transports import (
    AsyncTransportResponse,
    ReadError,
    ReadTimeout,
    TransportRequest,
)

from dspex_ray.core.errors import DeadlineExceeded, DspexRayError, Invalid, Unavailable

T = TypeVar("T")

_STATUS: dict[type[BaseException], int] = {
    Invalid: 400,
    DeadlineExceeded: 504,
    TimeoutError: 504,
    Unavailable: 503,
}


class ChatHost(Protocol):
    """What answers OpenAI chat bodies. An answer {"error": {"status": 400, ...}} is a refusal
    with that HTTP-like status."""

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]: ...

    def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """Server-sent events. A refusal is the first and only one."""
        ...


class HandleTransport:
    """An lm15 AsyncTransport. `read_timeout_s` bounds the wait for an answer, or a stream's next
    piece. Errors that the host raises become statuses; whatever else fails, the way is broken."""

    def __init__(self, host: ChatHost, *, read_timeout_s: float) -> None:
        self._host = host
        self._timeout_s = read_timeout_s

    def stream(self, request: TransportRequest) -> _Exchange:
        return _Exchange(self._host, request, request.read_timeout or self._timeout_s)

    async def aclose(self) -> None:
        """Nothing is held open between requests."""


class _Exchange:
    """One request: an async context manager that gives the response."""

    def __init__(self, host: ChatHost, request: TransportRequest, timeout_s: float) -> None:
        self._host = host
        self._request = request
        self._timeout_s = timeout_s
        self._source: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> AsyncTransportResponse:
        body = json.loads(self._request.body)
        if body.get("stream"):
            return await self._stream(body)
        try:
            answer = await self._within(self._host.chat(body))
        except (DspexRayError, TimeoutError) as error:
            return self._refused(error)
        return self._whole(answer)

    async def __aexit__(self, *exception: object) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def _stream(self, body: dict[str, Any]) -> AsyncTransportResponse:
        """The status is known only with the first piece, so that one is awaited here."""
        self._source = aiter(self._host.chat_stream(body))
        try:
            first = await self._next()
        except (DspexRayError, TimeoutError) as error:
            return self._refused(error)
        refusal = _refusal_in(first)
        if refusal is not None:
            return self._whole(refusal)
        return _response(200, self._pieces(first), {"content-type": "text/event-stream"})

    async def _pieces(self, first: bytes) -> AsyncIterator[bytes]:
        piece = first
        while piece:
            yield piece
            try:
                piece = await self._next()
            except DspexRayError as error:
                raise ReadError(f"the stream broke off: {type(error).__name__}") from error

    async def _next(self) -> bytes:
        """The next piece; empty at the end."""
        assert self._source is not None
        return await self._within(anext(self._source, b""))

    async def _within(self, waiting: Awaitable[T]) -> T:
        timed = asyncio.timeout(self._timeout_s)
        try:
            async with timed:
                return await waiting
        except DspexRayError:
            raise
        except TimeoutError as error:
            if not timed.expired():
                raise
            raise ReadTimeout(f"the hosted model sent nothing for {self._timeout_s:g} s") from error
        except Exception as error:  # a lost actor, a refused handle: the host cannot be reached
            raise ReadError(f"the hosted model was lost: {type(error).__name__}") from error

    def _refused(self, error: BaseException) -> AsyncTransportResponse:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        retry_after = error.retry_after_s if isinstance(error, DspexRayError) else None
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        body = {"error": {"message": str(error), "type": type(error).__name__, "code": None}}
        return _response(status, _once(json.dumps(body).encode()), headers)

    def _whole(self, answer: dict[str, Any]) -> AsyncTransportResponse:
        error = answer.get("error")
        status = error.get("status", 500) if isinstance(error, dict) else 200
        return _response(status, _once(json.dumps(answer).encode()), {})


def _refusal_in(piece: bytes) -> dict[str, Any] | None:
    if not piece.startswith(b'data: {"error"'):
        return None
    refusal = json.loads(piece.removeprefix(b"data: "))
    return refusal if isinstance(refusal, dict) else None


def _response(
    status: int, chunks: AsyncIterator[bytes], headers: dict[str, str]
) -> AsyncTransportResponse:
    async def release(body_consumed: bool) -> None:
        """The exchange closes its source itself."""

    return AsyncTransportResponse(
        status=status,
        reason="",
        headers=[("content-type", "application/json"), *headers.items()],
        http_version="HTTP/1.1",
        chunks=chunks,
        release=release,
    )


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
