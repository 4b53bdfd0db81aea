"""A server of a peer: started in a session of its own, waited for, ended with its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cache import cache_folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    command: list[str],
    port: int,
    log_name: str,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120,
) -> Iterator[None]:
    """Runs `command` until the block ends; enters it when `port` takes connections.

    Its output goes to a log in the cache folder. Raises RuntimeError with the log's end when it
    does not come up.
    """
    log = cache_folder() / f"{log_name}.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(running, port, log, timeout_s)
        yield
    finally:
        _end(running)


def _await(running: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _answers(port):
        if running.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-1500:]
            raise RuntimeError(f"{running.args!r} does not come up:\n{tail}")
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(running: subprocess.Popen[bytes]) -> None:
    for sign, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(running.pid, sign)
            running.wait(patience_s)
            return
        except ProcessLookupError:
            running.wait()
            return
        except subprocess.TimeoutExpired:
            continue
