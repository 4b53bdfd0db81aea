"""An instance that a demo starts for itself and ends again, by the `dspex` command alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from dspex_ray.client import Dspex

out = Console(highlight=False, soft_wrap=True)


def home_of(name: str) -> Path:
    """Short, since sockets lie in it; one a checkout and user; not below a closed home folder."""
    checkout = hashlib.sha256(__file__.encode()).hexdigest()[:8]
    return Path("/var/tmp") / f"dspex-{name}-{os.getuid()}-{checkout}"  # noqa: S108 - mode 0700


@contextmanager
def own_instance(home: Path) -> Iterator[None]:
    """It runs inside, and whatever happens there, nothing of it runs afterwards."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started, as Ctrl-C does
    with step("What an earlier run left"):
        dspex(home, "down", quiet=True)
        shutil.rmtree(home, ignore_errors=True)
    try:
        with step("Start Postgres, Ray and the platform"):
            dspex(home, "up")
        yield
    finally:
        with step("End the instance"):
            dspex(home, "down")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    out.print(f"\n[bold blue]==>[/] [bold]{title}[/]")
    began = time.monotonic()
    yield
    out.print(f"    {time.monotonic() - began:.1f} s")


def dspex(home: Path, *arguments: str, quiet: bool = False) -> str:
    """Run the dspex command as a user would; `quiet` keeps its output, which is given back.

    Raises CalledProcessError when it fails.
    """
    if arguments[0] != "status":
        out.print(f"    $ dspex --home {home} {' '.join(arguments)}", style="dim")
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "dspex_ray.cli", "--home", str(home), *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        text=True,
    )
    return done.stdout or ""


def status_of(home: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(dspex(home, "status", "--json", quiet=True))
    return status


def client_of(home: Path) -> Dspex:
    """With the development key; to be closed."""
    key = (home / "dev-key").read_text(encoding="ascii").strip()
    return Dspex(status_of(home)["url"], key)
