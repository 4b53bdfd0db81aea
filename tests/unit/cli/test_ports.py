"""Ports are free, distinct, and the ones asked for."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from dspex_ray.cli.ports import REPLICA_PORTS, choose_ports, is_free
from dspex_ray.core.errors import Conflict


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_a_listener_that_would_share_its_port_still_takes_it() -> None:
    """HAProxy and Serve's proxies listen so: a second one would get half of the requests."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_a_port_whose_listener_went_is_free_at_once() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = listener.accept()
        served.close()  # the server's side lingers in TIME_WAIT
        client.close()
    assert is_free(port)


def test_all_ports_differ_and_are_free() -> None:
    for seed in range(20):
        ports = choose_ports(below=random.Random(seed).randrange)
        single = [
            number
            for name, number in ports.model_dump().items()
            if name not in {"replica_http", "replica_grpc"}
        ]
        blocks = [
            *range(ports.replica_http, ports.replica_http + REPLICA_PORTS),
            *range(ports.replica_grpc, ports.replica_grpc + REPLICA_PORTS),
        ]
        every = single + blocks
        assert len(every) == len(set(every))
        assert all(20000 <= port <= 29999 for port in every)
        assert all(is_free(port) for port in single)


def test_what_is_asked_for_is_given() -> None:
    free = choose_ports()
    ports = choose_ports(free.http, free.dashboard)
    assert (ports.http, ports.dashboard) == (free.http, free.dashboard)


def test_a_taken_port_is_refused_by_name(taken: int) -> None:
    with pytest.raises(Conflict, match=f"http_port {taken} is taken"):
        choose_ports(http=taken)
    with pytest.raises(Conflict, match=f"dashboard_port {taken} is taken"):
        choose_ports(dashboard=taken)
