"""The simulated model behind HTTP, as an OpenAI-compatible server with a fixed latency.

`python -m benchmarks.optimize.provider --latency-ms 100` prints its port and serves until its
standard input closes. It counts what it is asked, and says so under `/counts`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from typing import Any, NamedTuple, cast

import uvloop

from benchmarks.http1 import message_end, reply
from benchmarks.optimize.simulated import Hidden, SimulatedModel, Turn, asked_fields


class Counts(NamedTuple):
    """Of prompts that asked for a topic, since they were last forgotten; health checks ask for
    something else.

    `repeated` of the `answered` had been answered before, the same prompt, word for word: when each
    of these was answered first, by `time.monotonic`. `left` were given up by whoever asked.
    `span_s` is from the first of them to the last answer.
    """

    asked: int
    answered: int
    repeated: tuple[float, ...]
    left: int
    span_s: float


class Provider:
    """The server in a process of its own, as a context manager; `url` ends with `/v1`."""

    def __init__(self, latency_ms: float = 0.0, seed: int = 0) -> None:
        self._options = ["--latency-ms", str(latency_ms), "--seed", str(seed)]

    def __enter__(self) -> Provider:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.optimize.provider", *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._running.stdout is not None
        self._root = f"http://127.0.0.1:{int(self._running.stdout.readline())}"
        self.url = f"{self._root}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(10)

    def counts(self) -> Counts:
        found = self._get("/counts")
        return Counts(**{**found, "repeated": tuple(found["repeated"])})

    def forget(self) -> None:
        """Count from zero, and forget what was asked."""
        self._get("/forget")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._root}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


class _Tally:
    def __init__(self) -> None:
        self.asked = self.answered = self.left = 0
        self.first_answer: dict[bytes, float] = {}
        self.repeated: list[float] = []
        self.first = self.last = time.monotonic()

    def came(self) -> None:
        if not self.asked:
            self.first = time.monotonic()
        self.asked += 1

    def answer(self, prompt: bytes) -> None:
        self.answered += 1
        self.last = time.monotonic()
        if prompt in self.first_answer:
            self.repeated.append(self.first_answer[prompt])
        else:
            self.first_answer[prompt] = self.last

    @property
    def counts(self) -> Counts:
        span_s = max(0.0, self.last - self.first)
        return Counts(self.asked, self.answered, tuple(self.repeated), self.left, span_s)


class _Server:
    def __init__(self, model: SimulatedModel, latency_s: float) -> None:
        self.model, self.latency_s = model, latency_s
        self.tally = _Tally()

    def reply(self, path: str, body: bytes) -> tuple[bytes, bytes | None]:
        """The whole answer; and what tells the prompt, if it is one that counts."""
        if path == "/counts":
            return reply(self.tally.counts._asdict()), None
        if path == "/forget":
            self.tally = _Tally()
            return reply({}), None
        messages = json.loads(body)["messages"]
        system = "\n".join(_text(m) for m in messages if m["role"] in {"system", "developer"})
        turns = [Turn(m["role"], _text(m)) for m in messages if m["role"] in {"user", "assistant"}]
        told = self.model.answer(system, turns) if asked_fields(turns) else "pong"
        counts = asked_fields(turns) == ["topic"]
        key = hashlib.sha256(json.dumps(messages).encode()).digest() if counts else None
        return reply(_completion(told)), key


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received and (end := message_end(self._received)) is not None:
            head, _, body = bytes(self._received[:end]).partition(b"\r\n\r\n")
            del self._received[:end]
            answer, prompt = self._server.reply(head.split(b" ", 2)[1].decode(), body)
            if prompt is None:
                self._transport.write(answer)
            else:
                self._server.tally.came()
                loop = asyncio.get_running_loop()
                loop.call_later(self._server.latency_s, self._send, answer, prompt)

    def _send(self, answer: bytes, prompt: bytes) -> None:
        if self._transport.is_closing():
            self._server.tally.left += 1
        else:
            self._transport.write(answer)
            self._server.tally.answer(prompt)


def _text(message: dict[str, Any]) -> str:
    """Of content that is text, or parts of it."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "simulated",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 10, "total_tokens": 210},
    }


async def _serve(latency_s: float, seed: int) -> None:
    loop = asyncio.get_running_loop()
    served = _Server(SimulatedModel(Hidden(seed)), latency_s)
    server = await loop.create_server(lambda: _Connection(served), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="provider", description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    uvloop.run(_serve(given.latency_ms / 1000, given.seed))
