"""Two instances live side by side; each ends whole, and alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from pydantic import SecretStr

import dspex_ray.testing
from dspex_ray.cli import ray_node
from dspex_ray.cli.instance import Instance, InstanceState
from dspex_ray.core.errors import DspexRayError, NotFound
from dspex_ray.db.engine import Database
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = """
import sys
from pathlib import Path
from dspex_ray.cli.instance import Instance
Instance(Path(sys.argv[1])).up(config=Path(sys.argv[2]))
"""
TINY = Path(dspex_ray.testing.__file__).parent / "tiny.yaml"


@pytest.fixture
def new_home() -> Iterator[Callable[[], Path]]:
    """Short paths, unlike pytest's: they hold unix sockets."""
    homes: list[Path] = []

    def make() -> Path:
        homes.append(Path(tempfile.mkdtemp(prefix="dx-")))
        return homes[-1]

    yield make
    for home in homes:
        Instance(home).down()
        shutil.rmtree(home, ignore_errors=True)


def home_of(state: InstanceState) -> str:
    answer: dict[str, str] = httpx.get(f"{state.url}/home", timeout=10).raise_for_status().json()
    return answer["home"]


def listeners(pids: set[int]) -> set[tuple[str, int]]:
    return {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids and connection.laddr
    }


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def enqueue_touch(url: SecretStr, name: str) -> None:
    database = Database(url.get_secret_value())
    async with database.write() as conn:
        await defer(conn, "tiny.touch", Queue.MAINTENANCE, name=name)
    await database.close()


async def test_two_instances_side_by_side(new_home: Callable[[], Path]) -> None:
    first, second = Instance(new_home()), Instance(new_home())
    assert first.status().phase == "stopped"
    steps: list[str] = []
    beside = subprocess.Popen([sys.executable, "-c", UP, str(second.home), str(TINY)])
    one = first.up(config=TINY, on_step=lambda name, seconds: steps.append(name))
    assert beside.wait(120) == 0
    found = second.status()
    assert found.phase == "running"
    two = found.state
    assert two is not None
    assert steps == ["Postgres", "schema", "Ray", "applications", "ready"]
    assert (home_of(one), home_of(two)) == (str(first.home), str(second.home))
    assert first.status().phase == "running"

    # Nobody gets in without the token, nor finds it or anything else readable.
    applications = f"{one.dashboard_url}/api/serve/applications/"
    assert httpx.get(applications).status_code == 401
    token = two.ray_token_file.read_text()
    assert httpx.get(applications, headers={"Authorization": f"Bearer {token}"}).status_code == 403
    assert stat.S_IMODE(first.home.stat().st_mode) == 0o700
    for name in ("instance.json", "ray-token", "secret.key"):
        assert stat.S_IMODE((first.home / name).stat().st_mode) == 0o600
    assert token not in (second.home / "instance.json").read_text()

    # All but HAProxy's own figures, for which Ray has no setting, listens to this machine alone;
    # so do the replicas' gRPC ports, which the token guards.
    pids = {process.pid for process in ray_node.processes_of(one.id, one.leader)}
    outward = {port for ip, port in listeners(pids) if not ip.endswith("127.0.0.1")}
    assert outward >= {one.ports.haproxy_metrics, one.ports.haproxy_stats}
    assert len(outward) <= 2 + len(one.applications)

    # The node's worker runs jobs, and a killed one comes back.
    workers = f"{one.url}/api/workers"
    [worker] = httpx.get(workers, timeout=30).raise_for_status().json()
    url = first.database_url(None)
    await enqueue_touch(url, "touched")
    until((first.home / "touched").exists, 30)
    kill_worker(pids_of(one), worker)
    await enqueue_touch(url, "touched-again")
    until((first.home / "touched-again").exists, 30)
    assert httpx.get(workers, timeout=30).json() == [worker]

    # A second `up` finds it running.
    assert first.up(config=TINY).leader == one.leader

    pids = pids_of(one)
    assert first.down() is True
    assert not any(ray_node.leader_of(pid) for pid in pids)
    assert processes_with(str(first.home)) == []
    assert not [port for port in one.ports.model_dump().values() if answers(port)]
    assert first.status().phase == "stopped"
    assert first.down() is False
    with pytest.raises(NotFound, match="dspex up"):
        first.database_url(None)
    assert home_of(two) == str(second.home)

    # A head that was killed, with all its orphans, is cleaned up and built anew.
    assert two.leader is not None
    os.kill(two.leader.pid, signal.SIGKILL)
    assert second.status().phase == "broken"
    again = second.up(config=TINY)
    assert again.id != two.id
    assert home_of(again) == str(second.home)
    assert not ray_node.processes_of(two.id, two.leader)
    assert second.down() is True
    assert processes_with(str(second.home)) == []


def pids_of(state: InstanceState) -> set[int]:
    return {process.pid for process in ray_node.processes_of(state.id, state.leader)}


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def kill_worker(pids: set[int], name: str) -> None:
    [process] = [
        psutil.Process(pid)
        for pid in pids
        if psutil.Process(pid).cmdline()[:1] == ["ray::WorkerActor"]
    ]
    assert name.startswith("worker-")
    process.kill()


def processes_with(text: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if text in " ".join(process.info["cmdline"] or [])
    ]


def test_an_application_that_fails_says_why_and_leaves_nothing(
    new_home: Callable[[], Path], database_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text(TINY.read_text().replace("build_control", "build_broken"))
    instance = Instance(new_home())
    with pytest.raises(DspexRayError, match="this application never starts"):
        instance.up(config=config, database_url=SecretStr(database_url))
    assert instance.status().phase == "stopped"
    assert processes_with(str(instance.home)) == []
    assert not (instance.home / "pg").exists()
    with psycopg.connect(database_url) as conn:  # which is not ours to stop
        assert conn.execute("SELECT 1").fetchone() == (1,)
