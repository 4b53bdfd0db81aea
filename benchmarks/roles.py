"""The processes of an instance by what they do, and their memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import psutil

from benchmarks.instance import Instance
from dspex_ray.cli.ray_node import processes_of

_TITLES: Final = {
    "ray::ServeReplica:gateway:gateway": "gateway replica",
    "ray::ServeReplica:control:control": "control replica",
    "ray::WorkerActor": "worker actor",
    "ray::ServeController": "Serve controller",
    "ray::ProxyActor": "Serve fallback proxy",
    "ray::HAProxyManager": "HAProxy manager",
    "ray::DashboardAgent": "Ray dashboard agent",
    "ray::RuntimeEnvAgent": "Ray runtime_env agent",
    "gcs_server": "Ray GCS",
    "raylet": "Ray raylet",
    "haproxy": "HAProxy",
    "postgres": "Postgres",
}
_DASHBOARD: Final = "ray-dashboard-"
_MODULES: Final = {
    "ray/dashboard/dashboard.py": "Ray dashboard",
    "multiprocessing.": "Ray dashboard",
    "ray.scripts.scripts": "ray start",
    "log_monitor.py": "Ray log monitor",
}


class Memory(NamedTuple):
    """In MB (10^6 bytes). `uss` is a process's alone, `pss` has its share of what is shared."""

    uss: float
    pss: float
    rss: float


class Member(NamedTuple):
    """A process of an instance; `part` tells those of one role apart, where they say it."""

    role: str
    part: str
    process: psutil.Process


def members(instance: Instance) -> Iterator[Member]:
    """All processes of the instance, its Postgres included."""
    state = instance.state
    for process in [*processes_of(state.id, state.leader), *_postgres(instance)]:
        with suppress(psutil.NoSuchProcess):
            yield Member(_role(process), _part(process), process)


def memory_of(process: psutil.Process) -> Memory:
    """Raises psutil.NoSuchProcess when it is gone."""
    read = process.memory_full_info()
    return Memory(read.uss / 1e6, read.pss / 1e6, read.rss / 1e6)


def find(instance: Instance, role: str) -> psutil.Process:
    """The process of that role. Raises LookupError unless there is one, and one alone."""
    found = [member.process for member in members(instance) if member.role == role]
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} processes of the role {role!r}")
    return found[0]


def _postgres(instance: Instance) -> list[psutil.Process]:
    """The embedded server and its children: it is no child of Ray."""
    lock = instance.home / "pg" / "postmaster.pid"
    try:
        server = psutil.Process(int(lock.read_text(encoding="ascii").split()[0]))
        return [server, *server.children(recursive=True)]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return []


def _part(process: psutil.Process) -> str:
    title = (process.cmdline() or [""])[0]
    if title.startswith("postgres: "):
        return title.removeprefix("postgres: ").strip()
    return title.removeprefix(_DASHBOARD).removesuffix("-0") if _DASHBOARD in title else ""


def _role(process: psutil.Process) -> str:
    command = process.cmdline()
    title = command[0] if command else process.name()
    role = _TITLES.get(title) or _TITLES.get(process.name())
    if role is not None:
        return role
    if title.startswith(_DASHBOARD):
        return "Ray dashboard"
    whole = " ".join(command)
    matching = (name for part, name in _MODULES.items() if part in whole)
    return next(matching, title.removeprefix("ray::"))
