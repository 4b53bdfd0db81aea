"""The load generator: raw HTTP/1.1 over keep-alive connections, in a process of its own.

It costs some 20 microseconds a request, so what is measured is the server. Closed loop: each
connection sends its next request when it has the answer of its last. With a rate, open loop: the
latency of a request counts from when it was due, so waiting for a slow server is not left out.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.figures import percentile
from benchmarks.http1 import message_end, post


@dataclass(frozen=True)
class Target:
    """One request, and a text that every good answer holds."""

    url: str
    headers: Mapping[str, str]
    body: Any
    expect: str


@dataclass(frozen=True)
class Pace:
    """`rate` is in requests a second; None is as fast as the answers come."""

    connections: int
    seconds: float
    warm_up_s: float = 1.0
    rate: float | None = None


@dataclass(frozen=True)
class Load:
    """What came back in the `seconds` after the warm-up. Failed requests are in `errors` alone."""

    seconds: float
    latencies_us: tuple[int, ...]  #: sorted
    errors: int
    first_error: str = ""

    @property
    def requests_s(self) -> float:
        return len(self.latencies_us) / self.seconds

    def latency_ms(self, share: float) -> float:
        """The percentile at `share` (0 to 1)."""
        return percentile(self.latencies_us, share) / 1000


def measure(target: Target, pace: Pace) -> Load:
    """Raises RuntimeError when nothing at all was answered well."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps({"target": asdict(target), "pace": asdict(pace)}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=pace.seconds + pace.warm_up_s + 120,
    )
    found = json.loads(done.stdout)
    load = Load(**{**found, "latencies_us": tuple(found["latencies_us"])})
    if not load.latencies_us:
        raise RuntimeError(f"{target.url} gave no good answer: {load.first_error or 'silence'}")
    return load


class Run:
    """All connections of one measurement, and what they found."""

    def __init__(self, target: Target, pace: Pace) -> None:
        address = urlsplit(target.url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self.request = post(target.url, target.headers, target.body)
        self.expect = target.expect.encode()
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._due: deque[float] = deque()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._latencies: list[int] = []
        self._errors: list[str] = []
        self._going = False
        self.start = self.end = float("inf")

    async def go(self) -> Load:
        await asyncio.gather(*(self.connect() for _ in range(self._pace.connections)))
        gc.freeze()
        gc.disable()
        self.start = time.perf_counter() + self._pace.warm_up_s
        self.end = self.start + self._pace.seconds
        self._going = True
        if self._pace.rate is None:
            for connection in self._idle:
                connection.send(time.perf_counter())
            self._idle.clear()
        else:
            await self._tick(self._pace.rate)
        await asyncio.sleep(max(0.0, self.end - time.perf_counter()))
        first = self._errors[0] if self._errors else ""
        return Load(self._pace.seconds, tuple(sorted(self._latencies)), len(self._errors), first)

    async def connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError as error:
            self.failed(repr(error))

    def made(self, connection: _Connection) -> None:
        if self._going:
            self.free(connection)
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, in_flight: bool) -> None:
        """A server may close an idle connection; a request that it left open has failed."""
        if connection in self._idle:
            self._idle.remove(connection)
        now = time.perf_counter()
        if in_flight and now < self.end:
            self.failed("the connection was closed in a request")
        if now < self.end:
            task = self._loop.create_task(self.connect())
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    def free(self, connection: _Connection) -> None:
        """Give it its next request, if there is one."""
        now = time.perf_counter()
        if now >= self.end:
            return
        if self._pace.rate is None:
            connection.send(now)
        elif self._due:
            connection.send(self._due.popleft())
        else:
            self._idle.append(connection)

    def answered(self, due: float, reply: bytes) -> None:
        now = time.perf_counter()
        if not self.start <= now < self.end:
            return
        if reply.startswith(b"HTTP/1.1 200") and self.expect in reply:
            self._latencies.append(int((now - due) * 1e6))
        else:
            self.failed(reply[:1000].decode(errors="replace"))

    def failed(self, reason: str) -> None:
        self._errors.append(reason)

    async def _tick(self, rate: float) -> None:
        due = time.perf_counter()
        while due < self.end:
            self._due.append(due)
            if self._idle:
                self.free(self._idle.pop())
            due += 1 / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)


class _Connection(asyncio.Protocol):
    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = bytearray()
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._run.made(self)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._due is None or message_end(self._received) is None:
            return
        due, self._due = self._due, None
        self._run.answered(due, bytes(self._received))
        self._received.clear()
        self._run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self, self._due is not None)


async def _main() -> None:
    asked = json.load(sys.stdin)
    load = await Run(Target(**asked["target"]), Pace(**asked["pace"])).go()
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    uvloop.run(_main())
