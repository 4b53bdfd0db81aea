"""An instance to break: its own Postgres, its own disk for the spool, secrets to look for.

Two gateways; limits small enough to be reached by one test process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
import pytest
import yaml
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from dspex_ray.cli import ray_node
from dspex_ray.cli.instance import LAPTOP_CONFIG, Instance
from dspex_ray.cli.ports import choose_ports
from dspex_ray.db.embedded import EmbeddedPostgres
from dspex_ray.models.model import ModelUpdate
from dspex_ray.testing.provider_simulator import ProviderSimulator
from tests.e2e.platform import REPLICAS, Platform, command_line, obliging, up
from tests.faults.load import Load, Request
from tests.instances import resident

MAX_INFLIGHT = 100  #: of each gateway
MAX_ONGOING = 130  #: what Serve hands a replica at once; more wait before our code
BREAKER_FAILURES = 5
BREAKER_OPEN_S = 2.0
SPOOL_BYTES = 48 * 1024**2

_GATEWAY = "ray::ServeReplica:gateway:gateway"
_WORKER = "ray::WorkerActor"

_MODEL = """
  - name: {name}
    provider: openai_compatible
    model_name: {name}-1
    base_url: {url}
    {key}
    timeout_s: {timeout_s}
    price: {{prompt_usd_per_token: "0.000001", completion_usd_per_token: "0.000002"}}
    supports_streaming: true
    approved: true
"""
_DECLARED = """
managed_by: faults
models: {simulated} {spare}
programs:
  - name: judge
    capture: {{mode: none}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: simulated}}]
"""


@dataclass(frozen=True)
class Planted:
    """Secrets of this instance that nothing of it may ever show."""

    provider_key: str = field(default_factory=lambda: f"sk-planted-{secrets.token_hex(12)}")
    provider_key_env: str = field(default_factory=lambda: f"sk-planted-{secrets.token_hex(12)}")
    database_password: str = field(default_factory=lambda: f"planted-{secrets.token_hex(12)}")
    secret_key: str = field(default_factory=lambda: Fernet.generate_key().decode())


@dataclass(frozen=True)
class House(Platform):
    server: EmbeddedPostgres
    database_url: str = field(repr=False)
    planted: Planted = field(repr=False)
    own_disk: bool  #: the spool lies on a small file system of its own

    @property
    def environment(self) -> dict[str, str]:
        limits = {} if self.own_disk else {"DSPEX_RAY_SPOOL__MAX_BYTES": str(SPOOL_BYTES)}
        return {
            **super().environment,
            "DSPEX_RAY_DATABASE_URL": self.database_url,
            "DSPEX_RAY_SECRET_KEY": self.planted.secret_key,
            "DSPEX_RAY_GATEWAY__MAX_INFLIGHT": str(MAX_INFLIGHT),
            "DSPEX_RAY_ROUTING__BREAKER_FAILURES": str(BREAKER_FAILURES),
            "DSPEX_RAY_ROUTING__BREAKER_OPEN_S": str(BREAKER_OPEN_S),
            "DSPEX_RAY_TELEMETRY__SPANS_FILE": "true",
            "PLANTED_PROVIDER_KEY": self.planted.provider_key_env,
            **limits,
        }

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    def load(self, ask: Callable[[str], Request], connections: int, **more: Any) -> Load:
        return Load(self.url, self.key, ask, connections, **more)

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            return conn.execute(query, values).fetchall()

    def processes(self) -> list[psutil.Process]:
        return ray_node.processes_of(self.state.id, self.state.leader)

    def gateways(self) -> list[psutil.Process]:
        return titled(self.processes(), _GATEWAY)

    def workers(self) -> list[psutil.Process]:
        return titled(self.processes(), _WORKER)

    def is_drained(self) -> bool:
        """Whether nothing waits in the spool; ask when nobody works."""
        return not [*self.spool.glob("*.open"), *self.spool.glob("*.ready")]

    def records_of(self, load: Load) -> list[tuple[str, str]]:
        """(tag, execution id) of everything in Postgres that this load caused."""
        return self.rows(
            "SELECT tags ->> 'tag', id::text FROM executions WHERE tags ->> 'load' = %s", load.name
        )

    def drained(self, load: Load, timeout_s: float = 30) -> None:
        """Return when each answered request of the load is on record, the one it was told of.

        Fails when one is missing after `timeout_s`, or when one is there twice.
        """
        answered = {(answer.tag, answer.execution_id) for answer in load.answered}
        deadline = time.monotonic() + timeout_s
        while missing := answered - set(self.records_of(load)):
            assert time.monotonic() < deadline, f"{len(missing)} of {len(answered)} are missing"
            time.sleep(0.2)
        tags = [tag for tag, _ in self.records_of(load)]
        assert len(tags) == len(set(tags)), "a request is on record twice"


def model(name: str, url: str, key: str = "", timeout_s: float = 60) -> str:
    """A model's lines in a declaration; approved, so its provider must answer."""
    return _MODEL.format(name=name, url=url, key=key, timeout_s=timeout_s)


def titled(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    return [one for one in processes if "".join(command_line(one)[:1]).startswith(title)]


@pytest.fixture(scope="session")
def house(pytestconfig: pytest.Config) -> House:
    """Started by the first test that asks, ended with the last one."""
    found: House = resident(pytestconfig).live("house", _started)
    return found


@contextmanager
def _started() -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="dxf-"))  # short: it holds unix sockets
    server = EmbeddedPostgres(folder / "pg")
    home = folder / "h"
    home.mkdir(mode=0o700)
    own_disk = _mounted(home / "spool")
    try:
        with ProviderSimulator(obliging) as simulator:
            yield from _up(home, folder, server, own_disk, simulator)
    finally:
        Instance(home).down()
        if own_disk:
            subprocess.run(["umount", "--lazy", home / "spool"], check=True)
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _up(
    home: Path, folder: Path, server: EmbeddedPostgres, own_disk: bool, sim: ProviderSimulator
) -> Iterator[House]:
    planted = Planted()
    url = make_url(server.start()).set(password=planted.database_password)
    config = folder / "serve.yaml"
    config.write_text(_config(), encoding="utf-8")
    port = choose_ports().http
    parts: dict[str, Any] = {
        "home": home,
        "url": f"http://127.0.0.1:{port}",
        "port": port,
        "config": config,
        "simulator": sim,
        "server": server,
        "database_url": url.render_as_string(hide_password=False),
        "planted": planted,
        "own_disk": own_disk,
    }
    said = up(House(key="", **parts).environment, port, config)
    house = House(key=said["api_key"], **parts)
    simulated = model("simulated", sim.url)
    spare = model("spare", sim.url, "api_key_ref: {env: PLANTED_PROVIDER_KEY}")
    house.apply(_DECLARED.format(simulated=simulated, spare=spare))
    with house.client() as client:
        key = SecretStr(planted.provider_key)
        client.models.update("simulated", ModelUpdate(api_key=key))
    yield house


def _config() -> str:
    config = yaml.safe_load(LAPTOP_CONFIG.read_text(encoding="utf-8"))
    [gateway] = [app for app in config["applications"] if app["name"] == "gateway"]
    gateway["deployments"][0].update(num_replicas=REPLICAS, max_ongoing_requests=MAX_ONGOING)
    return yaml.safe_dump(config)


def _mounted(folder: Path) -> bool:
    """Whether `folder` is now a small disk of its own: only root may mount one."""
    folder.mkdir(mode=0o700)
    if os.geteuid() != 0:
        return False
    options = f"size={SPOOL_BYTES},mode=700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    return done.returncode == 0
