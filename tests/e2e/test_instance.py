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
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from pydantic import SecretStr

import dspex_ray.testing
from dspex_ray.cli import ray_node
from dspex_ray.cli.instance import Instance, InstanceState
from dspex_ray.core.errors import DspexRayError
from dspex_ray.db.engine import Database
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

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
    with ExitStack() as ends:  # whatever one of them says, the others end too
        for home in homes:
            ends.callback(shutil.rmtree, home, ignore_errors=True)
            ends.callback(Instance(home).down)


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


async def test_two_instances_side_by_side(
    new_home: Callable[[], Path], database_url: str, tmp_path: Path
) -> None:
    first, second = Instance(new_home()), Instance(new_home())
    one, two = start_both(first, second)
    assert (home_of(one), home_of(two)) == (str(first.home), str(second.home))
    nobody_gets_in_without_its_own_token(one, two)
    the_database_lives_past_its_start(first)
    only_haproxys_figures_listen_to_others(one)
    await its_worker_runs_jobs_and_comes_back(first, one)
    assert first.up(config=TINY).leader == one.leader  # found running

    pids = pids_of(one)
    assert first.down() is True
    assert not any(ray_node.leader_of(pid) for pid in pids)
    assert processes_with(str(first.home)) == []
    assert not [port for port in one.ports.model_dump().values() if answers(port)]
    assert first.status().phase == "stopped"
    assert first.down() is False
    assert home_of(two) == str(second.home)

    # A killed head leaves orphans: the next `up` ends them and builds anew. When it fails, it
    # says why and leaves nothing; a database that is not its own goes on.
    assert two.leader is not None
    os.kill(two.leader.pid, signal.SIGKILL)
    assert second.status().phase == "broken"
    config = tmp_path / "broken.yaml"
    config.write_text(TINY.read_text().replace("build_control", "build_broken"))
    with pytest.raises(DspexRayError, match="this application never starts"):
        second.up(config=config, database_url=SecretStr(database_url))
    assert pids_of(two) == set()
    assert second.status().phase == "stopped"
    assert processes_with(str(second.home)) == []
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def start_both(first: Instance, second: Instance) -> tuple[InstanceState, InstanceState]:
    """At the same time: one from here, one from a process that ends before it is used."""
    steps: list[str] = []
    beside = subprocess.Popen([sys.executable, "-c", UP, str(second.home), str(TINY)])
    try:
        one = first.up(config=TINY, on_step=lambda name, seconds: steps.append(name))
        assert beside.wait(400) == 0
    finally:
        beside.kill()  # it holds the home, which is to be ended, for as long as it is at work
        beside.wait()
    assert steps == ["Postgres", "schema", "Ray", "applications", "ready"]
    assert first.status().phase == "running"
    found = second.status()
    assert found.phase == "running"
    assert found.state is not None
    return one, found.state


def nobody_gets_in_without_its_own_token(one: InstanceState, two: InstanceState) -> None:
    applications = f"{one.dashboard_url}/api/serve/applications/"
    assert httpx.get(applications).status_code == 401
    token = two.ray_token_file.read_text()
    assert httpx.get(applications, headers={"Authorization": f"Bearer {token}"}).status_code == 403
    # Root's own Postgres is another user, who passes through but sees nothing.
    assert stat.S_IMODE(one.home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    for name in ("instance.json", "ray-token", "secret.key"):
        assert stat.S_IMODE((one.home / name).stat().st_mode) == 0o600
    assert token not in (two.home / "instance.json").read_text()


def the_database_lives_past_its_start(instance: Instance) -> None:
    """A checkpoint opens files that nothing has opened since the start."""
    url = instance.database_url(None).get_secret_value()
    for _ in range(2):
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CHECKPOINT")
            assert conn.execute("SELECT count(*) FROM projects").fetchone() == (1,)


def only_haproxys_figures_listen_to_others(state: InstanceState) -> None:
    """Ray has no setting for those, nor for the replicas' gRPC ports, which the token guards."""
    outward = {port for ip, port in listeners(pids_of(state)) if not ip.endswith("127.0.0.1")}
    assert outward >= {state.ports.haproxy_metrics, state.ports.haproxy_stats}
    assert len(outward) <= 2 + len(state.applications)


async def its_worker_runs_jobs_and_comes_back(instance: Instance, state: InstanceState) -> None:
    old = httpx.get(f"{state.url}/api/old-worker", timeout=30).raise_for_status().json()
    workers = f"{state.url}/api/workers"
    [worker] = httpx.get(workers, timeout=30).raise_for_status().json()
    url = instance.database_url(None)
    await enqueue_touch(url, "touched")
    until((instance.home / "touched").exists, 30)
    assert old != worker
    until(lambda: len(worker_processes(state)) == 1, 30)  # the one of other code was ended
    worker_processes(state)[0].kill()
    await enqueue_touch(url, "touched-again")
    until((instance.home / "touched-again").exists, 30)
    assert httpx.get(workers, timeout=30).json() == [worker]


def worker_processes(state: InstanceState) -> list[psutil.Process]:
    found = []
    for pid in pids_of(state):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::WorkerActor"):
                found.append(process)
    return found


def pids_of(state: InstanceState) -> set[int]:
    return {process.pid for process in ray_node.processes_of(state.id, state.leader)}


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def processes_with(text: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if text in " ".join(process.info["cmdline"] or [])
    ]
