"""Ports of an instance: those that were asked for, else free ones, so that instances do not meet.

Serve's proxies listen with SO_REUSEPORT: two on one port would not collide but share its requests.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from dspex_ray.core.errors import Conflict, Unavailable

# Below the ports that Ray's workers (10002-19999) and the kernel (32768 and up) hand out.
_FIRST, _LAST = 20000, 29999
REPLICA_PORTS = 64  # one a replica on this node, and as many for gRPC


class Ports(BaseModel):
    """Everything that an instance listens on by a number of its own; Ray picks the rest freely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    http: int
    dashboard: int
    gcs: int
    agent: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int
    fallback_grpc: int
    replica_http: int  # the first of REPLICA_PORTS
    replica_grpc: int  # the first of REPLICA_PORTS
    metrics: int = 0  # Prometheus scrapes it; 0 in the file of an older release: Ray chose one


def choose_ports(
    http: int | None = None,
    dashboard: int | None = None,
    *,
    below: Callable[[int], int] = secrets.randbelow,
) -> Ports:
    """Free ports; `http` and `dashboard` as given. Raises Conflict when a given one is taken.

    Nothing holds them until they are bound: two that choose at the same moment are kept apart by
    chance (`below` draws) and by the services' own refusal.
    """
    for name, port in (("http_port", http), ("dashboard_port", dashboard)):
        if port is not None and not is_free(port):
            raise Conflict(f"{name} {port} is taken: stop what listens there, or give another")
    taken = {port for port in (http, dashboard) if port is not None}

    def one() -> int:
        port = _free_block(1, taken, below)
        taken.add(port)
        return port

    def block() -> int:
        first = _free_block(REPLICA_PORTS, taken, below)
        taken.update(range(first, first + REPLICA_PORTS))
        return first

    return Ports(
        http=http if http is not None else one(),
        dashboard=dashboard if dashboard is not None else one(),
        gcs=one(),
        agent=one(),
        haproxy_metrics=one(),
        haproxy_stats=one(),
        fallback_http=one(),
        fallback_grpc=one(),
        replica_http=block(),
        replica_grpc=block(),
        metrics=one(),
    )


def is_free(port: int) -> bool:
    """Whether nothing listens there on any address (connections that linger do not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - asks about every address; never listens
        except OSError:
            return False
    return True


def _free_block(size: int, taken: set[int], below: Callable[[int], int]) -> int:
    for _ in range(200):
        first = _FIRST + below(_LAST - _FIRST - size + 2)
        block = range(first, first + size)
        if taken.isdisjoint(block) and all(is_free(port) for port in block):
            return first
    raise Unavailable(f"no {size} free ports in a row between {_FIRST} and {_LAST}")
