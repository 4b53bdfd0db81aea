"""Clients at work: every request has a tag of its own, every answer and failure is counted."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

Request = tuple[str, dict[str, Any]]  #: path and body


class Answered(NamedTuple):
    """A request that was answered with 200, its last byte included; times are monotonic."""

    tag: str
    execution_id: str
    model: str | None
    version: str | None
    sent: float
    done: float


class Failed(NamedTuple):
    """Any other end. `status` 0: no answer came; `body` is then the client's error."""

    tag: str
    status: int
    body: str
    headers: dict[str, str]
    sent: float
    done: float

    @property
    def code(self) -> str | None:
        """Of our error body; None for a body that is not ours."""
        try:
            code = json.loads(self.body)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None
        return str(code)


def prediction(program: str) -> Callable[[str], Request]:
    """Asks the program; the claim is the tag."""
    return lambda tag: (f"/v1/programs/{program}/predict", {"inputs": {"claim": tag}})


def completion(model: str) -> Callable[[str], Request]:
    return lambda tag: (
        "/v1/chat/completions",
        {"model": model, "messages": [{"role": "user", "content": tag}]},
    )


@dataclass
class Load:
    """`connections` clients, each asking, reading the answer, pausing, asking again."""

    url: str
    key: str = field(repr=False)
    ask: Callable[[str], Request]
    connections: int
    pause_s: float = 0.0
    timeout_s: float = 60.0
    headers: dict[str, str] = field(default_factory=dict)
    answered: list[Answered] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    name: str = field(default_factory=lambda: secrets.token_hex(6))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _stopped: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients work while the block runs; at its end each finishes the request it is at."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._stopped = False
        async with (
            httpx.AsyncClient(base_url=self.url, limits=limits, timeout=self.timeout_s) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self.connections):
                tasks.create_task(self._work(client))
            try:
                yield
            finally:
                self._stopped = True

    async def burst(self) -> None:
        """One request on each connection, all at once."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, limits=limits, timeout=self.timeout_s
        ) as client:
            await asyncio.gather(*(self._one(client) for _ in range(self.connections)))

    async def until(self, count: int) -> None:
        """Return when so many requests were answered."""
        while len(self.answered) < count:
            await asyncio.sleep(0.01)

    async def _work(self, client: httpx.AsyncClient) -> None:
        while not self._stopped:
            await self._one(client)
            await asyncio.sleep(self.pause_s)

    async def _one(self, client: httpx.AsyncClient) -> None:
        tag = f"{self.name}-{next(self._numbers)}"
        path, body = self.ask(tag)
        headers = {
            "authorization": f"Bearer {self.key}",
            "x-dspex-tags": f"load={self.name},tag={tag}",
            **self.headers,
        }
        sent = time.monotonic()
        try:
            response = await client.post(path, json=body, headers=headers)
        except httpx.TransportError as error:
            self.failed.append(Failed(tag, 0, repr(error), {}, sent, time.monotonic()))
            return
        done = time.monotonic()
        said = response.headers
        if response.status_code == 200:
            self.answered.append(
                Answered(
                    tag,
                    said["x-dspex-execution"],
                    said.get("x-dspex-model"),
                    said.get("x-dspex-version"),
                    sent,
                    done,
                )
            )
        else:
            failed = Failed(tag, response.status_code, response.text, dict(said), sent, done)
            self.failed.append(failed)
