"""The Ray head node of one instance: its command, its environment, its processes.

Everything it writes lies under the home folder. It runs in a session of its own, and every
process below it carries the instance's id in its environment: by those two they are found again,
whatever their parents became.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from dspex_ray.api import edge
from dspex_ray.cli.ports import REPLICA_PORTS, Ports
from dspex_ray.core.errors import Invalid
from dspex_ray.telemetry.serve import serve_variables

INSTANCE_VARIABLE = "DSPEX_RAY_INSTANCE"

_KEPT_SESSIONS = 3
_OBJECT_STORE_BYTES = 512 * 1024**2
# Linux holds 107 bytes for a unix socket's path; the longest of Ray's is this much below the home:
_LONGEST_SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
_SOCKET_PATH_MAX = 107
# HAProxy adds 80 bytes to its folder's name, takes 97 in all, and no relative path: so the home,
# which is the working folder of all these processes, is named without its length.
_HAPROXY = "/proc/self/cwd/haproxy"
# Serve's template has no place for options of ours, but writes this value as it is. With kernel
# splicing, HAProxy no longer notices that a client left once its body came apart from its headers
# (docs/decisions/0009): its request would go on to the deadline.
_BALANCE = "leastconn\n    no option splice-request"


class Leader(NamedTuple):
    """The `ray start` process. A pid alone may be another's by now; with its birth it is not."""

    pid: int
    created: float  # seconds since the epoch, as psutil says


def check_home(home: Path) -> None:
    """Raises Invalid when Ray's sockets would not fit under this path."""
    longest = _SOCKET_PATH_MAX - _LONGEST_SOCKET
    if len(os.fsencode(home)) > longest:
        raise Invalid(
            f"home {home} is too long: Ray's unix sockets leave it {longest} bytes",
            field="home",
            rule="path length",
        )


def make_folders(home: Path) -> None:
    """What Ray and Serve write into; the remains of earlier runs go, but the last ones' logs."""
    shutil.rmtree(home / "haproxy", ignore_errors=True)
    for folder in ("ray", "logs", "haproxy", "spool"):
        (home / folder).mkdir(mode=0o700, exist_ok=True)
    sessions = sorted((home / "ray").glob("session_2*"))  # named by their start
    for session in sessions[:-_KEPT_SESSIONS]:
        shutil.rmtree(session, ignore_errors=True)


def start_node(
    home: Path, instance: str, ports: Ports, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start `ray start --head --block`; it lives on when this process ends. Does not wait."""
    with (home / "logs" / "ray.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            _command(home, ports),
            env=node_environment(home, instance, ports, environment),
            cwd=home,  # see _HAPROXY
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def node_environment(
    home: Path, instance: str, ports: Ports, environment: Mapping[str, str]
) -> dict[str, str]:
    """`environment`, and what binds Ray and Serve to this home and these ports."""
    inherited = {
        name: value
        for name, value in environment.items()
        # Another cluster's address or token must not leak into this one.
        if name not in {"RAY_ADDRESS", "RAY_JOB_ID", "RAY_AUTH_TOKEN"}
    }
    scripts = str(Path(sys.executable).parent)
    return {
        # Whoever sets one of these knows why.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # gRPC's own 4 MB is less than an answer and its content to record may be.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024**2),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **serve_variables(environment),
        **inherited,
        "PATH": os.pathsep.join([scripts, environment.get("PATH", os.defpath)]),
        INSTANCE_VARIABLE: instance,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "ray-token"),
        "RAY_START_HOOK": f"{__name__}.without_client_server",
        # On Linux, Ray replaces 127.0.0.1 by the machine's outward address, wherever it is given,
        # unless it takes itself for a single node as on macOS: then all of it stays on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": _BALANCE,
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": edge.IMPORT_PATH,
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica_http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica_http + REPLICA_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replica_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replica_grpc + REPLICA_PORTS - 1),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{_HAPROXY}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{_HAPROXY}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": _HAPROXY,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{_HAPROXY}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{_HAPROXY}/metrics.sock",
    }


def without_client_server(ray_params: Any, head: bool) -> None:
    """Ray's start hook: no Ray Client server, which nobody here uses and no option turns off."""
    ray_params.ray_client_server_port = None


def leader_of(pid: int) -> Leader | None:
    """None when there is no such process, or only its remains."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Leader(pid, process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(leader: Leader | None) -> bool:
    return leader is not None and leader_of(leader.pid) == leader


def processes_of(instance: str, leader: Leader | None) -> list[psutil.Process]:
    """Every process of the instance: those that carry its id, and those of its session."""
    return _members(instance, _own_session(instance, leader))


def end_processes(instance: str, leader: Leader | None, *, grace_s: float = 4.0) -> int:
    """SIGTERM to the leader, and after `grace_s` SIGKILL to all that is left. Returns how many.

    SIGTERM alone would drain for half a minute. Nothing is wrong when all are gone already.
    """
    session = _own_session(instance, leader)  # now: once the leader is dead it may not be told
    if leader is not None and is_alive(leader):
        with suppress(ProcessLookupError):
            os.kill(leader.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and _members(instance, session):
            time.sleep(0.1)
    killed: set[int] = set()
    for _ in range(50):  # what is killed may just have forked
        left = _members(instance, session)
        if not left:
            break
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
        killed |= {process.pid for process in left}
    return len(killed)


def _own_session(instance: str, leader: Leader | None) -> int | None:
    """The leader's session while it, or a process with the id, is in it; else None.

    Numbers come again after a reboot; while a session has members, theirs does not.
    """
    if leader is None:
        return None
    if is_alive(leader) or any(_session(p.pid) == leader.pid for p in _members(instance, None)):
        return leader.pid
    return None


def _members(instance: str, session: int | None) -> list[psutil.Process]:
    """By both, since Ray's workers overwrite their environment with their title, and Ray's jobs
    have sessions of their own. Never this process."""
    return [
        process
        for process in _everybody()
        if process.pid != os.getpid()
        and (
            (session is not None and _session(process.pid) == session)
            or _variable(process, INSTANCE_VARIABLE) == instance
        )
    ]


def _command(home: Path, ports: Ports) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={home / 'ray'}",
        f"--port={ports.gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--metrics-export-port={ports.metrics}",
        "--no-monitor",  # the autoscaler's: there is one node, and no other to add
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]


def _everybody() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):  # gone meanwhile, or another user's
        return None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
