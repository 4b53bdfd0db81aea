"""A provider on a real socket: OpenAI chat completions and Anthropic messages, faults on demand.

Use it in a test (`with ProviderSimulator() as sim: sim.url`), as the zero-latency upstream of a
benchmark, or as a process: `python -m dspex_ray.testing.provider_simulator --port 9000`. Its
token counts are counts of words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple

from dspex_ray.testing.provider_wires import (
    WIRES,
    Answer,
    Prompt,
    ToolCall,
    Wire,
    default_answer,
    embeddings,
)

__all__ = ["Answer", "Fault", "Prompt", "ProviderSimulator", "Received", "ToolCall"]

_MAX_HEAD = 64 * 1024
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}


class Fault(StrEnum):
    """What goes wrong with one request. Those about streams have a plain counterpart."""

    RATE_LIMIT = "rate_limit"  #: 429, Retry-After `retry_after_s`
    SERVER_ERROR = "server_error"  #: 500
    UNAUTHORIZED = "unauthorized"  #: 401, which repeats the key, as some providers do
    MALFORMED = "malformed"  #: 200, and a body (or an event) that is not JSON
    HANG = "hang"  #: the request is read and never answered
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105 - first byte after `slow_s`
    CUT = "cut"  #: the connection is closed in the middle of the body
    SSE_ERROR = "sse_error"  #: an error object in the stream; in a plain answer, under 200


class Received(NamedTuple):
    """One request as it came. Header names are in lower case; `body` None was not JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None


class ProviderSimulator:
    """The server, in a thread of its own. All of its scripting may change while it runs.

    `answer` makes the text (or tool calls) of an answer from the prompt. `latency_s` passes
    before the first byte, `token_s` between two pieces of a stream.
    """

    def __init__(
        self,
        answer: Callable[[Prompt], Answer] = default_answer,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_s: float = 0.0,
        token_s: float = 0.0,
        slow_s: float = 1.0,
        retry_after_s: float = 1.0,
        keep_requests: int = 10_000,
    ) -> None:
        self.answer = answer
        self.latency_s = latency_s
        self.token_s = token_s
        self.slow_s = slow_s
        self.retry_after_s = retry_after_s
        self.requests: deque[Received] = deque(maxlen=keep_requests)
        self.served = 0  #: requests read, whatever became of them
        self.disconnects = 0  #: clients that left while their answer was under way
        self._host, self._port = host, port
        self._script: deque[Fault | None] = deque()
        self._always: Fault | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    @property
    def url(self) -> str:
        """The base_url of an OpenAI-compatible or Anthropic model served here."""
        return f"http://{self._host}:{self._port}/v1"

    def script(self, faults: Iterable[Fault | None]) -> None:
        """The next requests meet these, one each, None being a good answer."""
        self._script.extend(faults)

    def unscript(self) -> None:
        """Forget what is left of the script."""
        self._script.clear()

    def always(self, fault: Fault | None) -> None:
        """What every request meets once the script is used up."""
        self._always = fault

    def __enter__(self) -> ProviderSimulator:
        self._thread = threading.Thread(target=self._run, name="provider-simulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the provider simulator did not start within 10 s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ProviderSimulator]:
        """The same server on the running loop."""
        open_connections: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer))
            open_connections.add(task)
            task.add_done_callback(open_connections.discard)

        server = await asyncio.start_server(accept, self._host, self._port, limit=_MAX_HEAD)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(open_connections):
                task.cancel()
            await asyncio.gather(*open_connections, return_exceptions=True)

    def _run(self) -> None:
        async def until_stopped() -> None:
            async with self.serving():
                self._loop = asyncio.get_running_loop()
                self._ready.set()
                await self._stop.wait()

        asyncio.run(until_stopped())

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (received := await _read(reader)) is not None:
                self.served += 1
                self.requests.append(received)
                if not await self._respond(received, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.disconnects += 1
        finally:
            writer.close()

    async def _respond(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False ends the connection."""
        wire = WIRES.get(received.path)
        if wire is None:
            return await self._respond_otherwise(received, writer)
        fault = self._script.popleft() if self._script else self._always
        if fault is Fault.HANG:
            self.disconnects += await reader.read(1) == b""  # waits until the client gives up
            return False
        if received.body is None or not received.body.get("messages"):
            return await _send_json(writer, 400, wire.error("messages must not be empty", 400))
        await asyncio.sleep(self.slow_s if fault is Fault.SLOW_FIRST_TOKEN else self.latency_s)
        if fault in _STATUS_OF:
            return await self._send_status(_STATUS_OF[fault], received, wire, writer)
        prompt = Prompt.of(received.body)
        answer = self.answer(prompt)
        if received.body.get("stream"):
            return await self._send_stream(wire.stream(prompt, answer), fault, wire, writer)
        return await _send_plain(wire.plain(prompt, answer), fault, wire, writer)

    async def _respond_otherwise(self, received: Received, writer: asyncio.StreamWriter) -> bool:
        """Embeddings, which meet the faults that are a status; or no completion of any kind."""
        if received.path != "/v1/embeddings":
            return await _send_other(received, writer)
        fault = self._script.popleft() if self._script else self._always
        if fault in _STATUS_OF:
            wire = WIRES["/v1/chat/completions"]
            return await self._send_status(_STATUS_OF[fault], received, wire, writer)
        texts = (received.body or {}).get("input", [])
        return await _send_json(writer, 200, embeddings(texts))

    async def _send_status(
        self, status: int, received: Received, wire: Wire, writer: asyncio.StreamWriter
    ) -> bool:
        key = received.headers.get("authorization") or received.headers.get("x-api-key", "")
        message = f"Incorrect API key provided: {key}" if status == 401 else f"simulated {status}"
        headers = {"Retry-After": f"{self.retry_after_s:g}"} if status == 429 else {}
        return await _send_json(writer, status, wire.error(message, status), headers)

    async def _send_stream(
        self,
        frames: list[bytes],
        fault: Fault | None,
        wire: Wire,
        writer: asyncio.StreamWriter,
    ) -> bool:
        half = len(frames) // 2
        if fault is Fault.MALFORMED:
            frames = [*frames[:half], b"data: {not json\n\n"]
        elif fault is Fault.SSE_ERROR:
            frames = [*frames[:half], wire.error_frame("simulated overload")]
        elif fault is Fault.CUT:
            frames = frames[:half]
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for frame in frames if self.token_s else [b"".join(frames)]:
            writer.write(f"{len(frame):x}\r\n".encode() + frame + b"\r\n")
            await writer.drain()
            if self.token_s:
                await asyncio.sleep(self.token_s)
            if writer.transport.is_closing():
                raise ConnectionResetError
        if fault is Fault.CUT:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


_STATUS_OF = {Fault.RATE_LIMIT: 429, Fault.SERVER_ERROR: 500, Fault.UNAUTHORIZED: 401}


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """The next request; None when the client closed the connection between two."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    path = target.partition("?")[0]
    return Received(method, path, headers, body if isinstance(body, dict) else None)


async def _send_plain(
    body: dict[str, Any], fault: Fault | None, wire: Wire, writer: asyncio.StreamWriter
) -> bool:
    if fault is Fault.SSE_ERROR:
        return await _send_json(writer, 200, wire.error("simulated overload", 500))
    content = json.dumps(body).encode()
    if fault is Fault.MALFORMED:
        content = content[: len(content) // 2]
    head = _head(200, len(content), {})
    if fault is Fault.CUT:
        writer.write(head + content[: len(content) // 2])
        await writer.drain()
        return False
    writer.write(head + content)
    await writer.drain()
    return True


async def _send_json(
    writer: asyncio.StreamWriter,
    status: int,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> bool:
    content = json.dumps(body).encode()
    writer.write(_head(status, len(content), headers or {}) + content)
    await writer.drain()
    return True


async def _send_other(received: Received, writer: asyncio.StreamWriter) -> bool:
    if received.path == "/v1/models":
        listed = {"object": "list", "data": [{"id": "simulated", "object": "model"}]}
        return await _send_json(writer, 200, listed)
    return await _send_json(writer, 404, {"error": {"message": f"no {received.path} here"}})


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}", f"Content-Length: {length}"]
    lines += ["Content-Type: application/json", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted; the first line on stdout is the base_url."""
    parser = argparse.ArgumentParser(prog="provider_simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", type=Fault, choices=list(Fault), help="what every request meets")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    given = parser.parse_args(arguments)
    simulator = ProviderSimulator(
        host=given.host,
        port=given.port,
        latency_s=given.latency_ms / 1000,
        token_s=given.token_ms / 1000,
        keep_requests=0,
    )
    simulator.always(given.fault)

    async def forever() -> None:
        async with simulator.serving():
            sys.stdout.write(f"{simulator.url}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(forever())


if __name__ == "__main__":
    main()
