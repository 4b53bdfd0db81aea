"""A node of two is lost, with all its processes and the disk that holds its spool."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psutil
import psycopg
import pytest
import yaml
from cryptography.fernet import Fernet

from dspex_ray.cli import ray_node
from dspex_ray.cli.instance import LAPTOP_CONFIG, Instance
from dspex_ray.cli.ports import choose_ports
from dspex_ray.cli.ray_node import Leader
from dspex_ray.testing.provider_simulator import ProviderSimulator
from dspex_ray.traces.losses import GRACE
from dspex_ray.traces.model import ExecutionRecord
from dspex_ray.traces.spool import SpoolReader
from tests.e2e.platform import Platform, obliging, up
from tests.faults.house import model, titled
from tests.faults.load import Load, prediction
from tests.faults.test_killed import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

DECLARED = """
managed_by: faults
models: {simulated}
programs:
  - name: judge
    capture: {{mode: none}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: simulated}}]
"""
# As `ray.cluster_utils.Cluster` adds a node: `ray start` joins no cluster on loopback.
JOIN = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
there = {"gcs_address": sys.argv[1], "node_ip_address": "127.0.0.1"}
ports = {"min_worker_port": 0, "max_worker_port": 0, "node_manager_port": 0}
size = {"num_cpus": 2, "object_store_memory": 256 * 1024**2}
node = Node(RayParams(**there, **ports, **size), head=False, shutdown_at_exit=True)
signal.pause()
"""
# A dead node is to be noticed in seconds; Ray's own figures take half a minute.
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


@dataclass(frozen=True)
class Head(Platform):
    """The first node, with the database, the proxy and the control plane."""

    secret_key: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        secret = {"DSPEX_RAY_SECRET_KEY": self.secret_key}
        return {**super().environment, **NOTICED_SOON, **secret}

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        url = Instance(self.home).database_url(None).get_secret_value()
        with psycopg.connect(url, autocommit=True) as conn:
            return conn.execute(query, values).fetchall()

    def recorded(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT id::text FROM executions")}

    def said_lost(self) -> int:
        said = httpx.get(f"{self.url}/readyz", timeout=10).json()
        return int(said["records_lost_with_nodes"])


@dataclass
class SecondNode:
    """A node that joins the head's cluster, with a home of its own, as on another machine."""

    head: Head
    home: Path
    instance: str = field(default_factory=lambda: secrets.token_hex(16))
    leader: Leader | None = None

    def start(self) -> None:
        ray_node.make_folders(self.home)
        shutil.copy(self.head.state.ray_token_file, self.home / "ray-token")
        database = Instance(self.head.home).database_url(None).get_secret_value()
        given = {
            **self.head.environment,
            "DSPEX_RAY_HOME": str(self.home),
            "DSPEX_RAY_DATABASE_URL": database,
        }
        # Before Serve hands out ports, which on one machine must differ from the head's.
        environment = ray_node.node_environment(self.home, self.instance, choose_ports(), given)
        command = [sys.executable, "-c", JOIN, self.head.state.ray_address]
        with (self.home / "logs" / "ray.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.leader = ray_node.leader_of(process.pid)
        process.returncode = 0  # ended by `kill`, not by waiting

    def processes(self) -> list[psutil.Process]:
        return ray_node.processes_of(self.instance, self.leader)

    def kill(self) -> None:
        """All at once, by SIGKILL."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        ray_node.end_processes(self.instance, self.leader, grace_s=0)


@contextmanager
def started(folder: Path) -> Iterator[tuple[Head, SecondNode]]:
    with ExitStack() as stack:
        simulator = stack.enter_context(ProviderSimulator(obliging))
        port = choose_ports().http
        parts: dict[str, Any] = {
            "home": folder / "a",
            "url": f"http://127.0.0.1:{port}",
            "port": port,
            "config": folder / "serve.yaml",
            "simulator": simulator,
            "secret_key": Fernet.generate_key().decode(),
        }
        stack.callback(lambda: Instance(folder / "a").down())
        one_each(parts["config"], replicas=1)
        said = up(Head(key="", **parts).environment, port, parts["config"])
        head = Head(key=said["api_key"], **parts)
        head.apply(DECLARED.format(simulated=model("simulated", simulator.url)))
        (folder / "b").mkdir(mode=0o700)
        node = SecondNode(head, folder / "b")
        stack.callback(node.kill)
        node.start()
        one_each(head.config, replicas=2)
        head.up()
        yield head, node


@pytest.fixture
def cluster() -> Iterator[tuple[Head, SecondNode]]:
    folder = Path(tempfile.mkdtemp(prefix="dxn-"))
    with started(folder) as both:
        yield both
    shutil.rmtree(folder, ignore_errors=True)


def one_each(path: Path, replicas: int) -> None:
    """A Serve config with at most one gateway on a node."""
    config = yaml.safe_load(LAPTOP_CONFIG.read_text(encoding="utf-8"))
    [gateway] = [app for app in config["applications"] if app["name"] == "gateway"]
    gateway["deployments"][0].update(num_replicas=replicas, max_replicas_per_node=1)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def left_in(spool: Path) -> dict[str, ExecutionRecord]:
    """What a spool holds, by id; it stays there."""
    reader = SpoolReader(spool)
    found: dict[str, ExecutionRecord] = {}
    for segment in reader.claim():
        for record in reader.read(segment):
            assert isinstance(record, ExecutionRecord)
            found[str(record.id)] = record
        reader.release(segment)
    return found


async def test_lost_node(cluster: tuple[Head, SecondNode]) -> None:
    """Lost: the requests that its gateway had at hand, and the records that lay undrained on its
    disk, until the disk is back. Those are counted: at least all that were there when the node
    was last heard of, and none that is on record."""
    head, node = cluster
    await until(lambda: len(titled(node.processes(), "ray::ServeReplica:gateway")) == 1, 60)
    await until(lambda: len(titled(node.processes(), "ray::WorkerActor")) == 1, 60)
    load = Load(head.url, head.key, prediction("judge"), 16, pause_s=0.02)
    async with load.running():
        await until(lambda: drained_of_both(head), 60)
        [worker] = titled(node.processes(), "ray::WorkerActor")
        worker.suspend()  # a drain that is behind: something is undrained, whatever the timing
        await asyncio.sleep(3.0)
        at = time.monotonic()
        await asyncio.to_thread(node.kill)
        gone = time.monotonic()
        await asyncio.sleep(8.0)
    assert len(load.failed) <= 16, load.failed
    assert all(failure.sent < gone + 0.5 for failure in load.failed), load.failed
    later = [answer for answer in load.answered if answer.sent > gone + 1.0]
    assert len(later) > 100
    print(f"{len(load.failed)} requests lost in flight; killed within {gone - at:.2f} s")

    undrained = left_in(node.home / "spool")
    answered = {answer.execution_id for answer in load.answered}
    await until(lambda: answered - head.recorded() <= undrained.keys(), 30)
    lost = undrained.keys() - head.recorded()
    assert answered - head.recorded() == answered & lost
    assert len(lost) > 20

    await until(lambda: head.said_lost() > 0, GRACE.total_seconds() + 60)
    counted = head.said_lost()
    last_seen = head.rows("SELECT max(seen_at) FROM spool_writers WHERE lost > 0")[0][0]
    reported = [one for one in lost if ended(undrained[one]) <= last_seen]
    print(f"{len(lost)} records lost, {counted} counted, {len(reported)} reported")
    assert len(reported) <= counted <= len(lost)
    assert len(reported) > len(lost) / 3
    assert said_in_logs(head.home, "records_lost_with_node")

    # The machine comes back with its disk: nothing is lost any more, and nothing counted.
    await asyncio.to_thread(node.start)
    await until(lambda: lost <= head.recorded(), 90)
    await until(lambda: head.said_lost() == 0, 30)
    assert answered <= head.recorded()


def drained_of_both(head: Head) -> bool:
    found = head.rows("SELECT count(DISTINCT node) FROM spool_writers WHERE drained > 20")
    return found == [(2,)]


def ended(record: ExecutionRecord) -> datetime:
    return record.started_at + timedelta(milliseconds=record.duration_ms)


def said_in_logs(home: Path, event: str) -> bool:
    return any(
        event in path.read_text(errors="replace")
        for path in (home / "ray").glob("session_2*/logs/**/*")
        if path.is_file()
    )
