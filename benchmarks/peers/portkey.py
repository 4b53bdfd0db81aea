"""The Portkey gateway: the upstream named by headers, no key of its own, no cost, no record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.cache import npm_package
from benchmarks.peers.peer import Peer, chat_target
from benchmarks.peers.server import free_port, serving

NAME = "Portkey gateway"
PACKAGE = "@portkey-ai/gateway"
VERSION = "1.15.2"


@contextmanager
def portkey(upstream: str) -> Iterator[Peer]:
    package = npm_package(PACKAGE, VERSION, "portkey")
    node = shutil.which("node")
    if node is None:
        raise RuntimeError(f"{PACKAGE} needs node, and there is none here")
    port = free_port()
    command = [node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    with serving(command, port, "portkey", cwd=package):
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": upstream,
            "authorization": "Bearer none",
        }
        yield Peer(NAME, chat_target(f"http://127.0.0.1:{port}/v1", headers))
