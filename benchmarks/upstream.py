"""The mock upstream: an OpenAI-compatible server that answers at once, always the same.

`python -m benchmarks.upstream` prints its port and serves until its standard input closes.
The answer is in the format of DSPy's chat adapter, so that it serves programs too.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import cast

import uvloop

from benchmarks.http1 import message_end, reply

ANSWER = (
    "Rayleigh scattering: air scatters the short wavelengths of sunlight more than the long ones, "
    "so blue light reaches the eye from every direction of the sky, and at dusk, when the way "
    "through the air is long, what is left of it is red."
)
COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "mock-1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": f"[[ ## answer ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]",
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180},
}
_REPLY = reply(COMPLETION)


class Upstream:
    """The mock in a process of its own, as a context manager; `url` ends with `/v1`."""

    def __enter__(self) -> Upstream:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.upstream"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._running.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._running.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(10)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received and (end := message_end(self._received)) is not None:
            del self._received[:end]
            self._transport.write(_REPLY)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
