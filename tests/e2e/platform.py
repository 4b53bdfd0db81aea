"""One running instance for all tests that need one: starting it takes half a minute.

`tests/e2e` and `tests/docs` take the fixture from here through their conftests, and share it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
import yaml

from dspex_ray.cli.instance import LAPTOP_CONFIG, Instance, InstanceState
from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.testing.provider_simulator import Answer, Prompt, ProviderSimulator
from dspex_ray.testing.provider_wires import default_answer
from tests.instances import resident

REPLICAS = 2

_FIELDS = re.compile(r"starting with the field (.*?) and then ending with", re.DOTALL)
_OURS = ("DSPEX_", "RAY_")


@dataclass(frozen=True)
class Platform:
    """The instance, the key that opens it, and a provider that its models may name."""

    home: Path
    url: str
    port: int
    key: str = field(repr=False)
    config: Path
    simulator: ProviderSimulator

    @property
    def environment(self) -> dict[str, str]:
        """What the processes of a user of this instance see, and those of the instance."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}
        scripts = str(Path(sys.executable).parent)
        return {
            **kept,
            "PATH": os.pathsep.join([scripts, kept.get("PATH", os.defpath)]),
            "DSPEX_RAY_HOME": str(self.home),
            "DSPEX_RAY_ALLOW_PRIVATE_BASE_URLS": "true",
            # Only what a test asks for by its traceparent.
            "DSPEX_RAY_TELEMETRY__SPANS_FILE": "true",
            "DSPEX_RAY_TELEMETRY__SAMPLE_RATIO": "0",
        }

    @property
    def state(self) -> InstanceState:
        state = Instance(self.home).status().state
        assert state is not None
        return state

    def client(self, *, max_retries: int = 2) -> Dspex:
        return Dspex(self.url, self.key, max_retries=max_retries)

    def async_client(self, *, max_retries: int = 2) -> AsyncDspex:
        return AsyncDspex(self.url, self.key, max_retries=max_retries)

    def apply(self, text: str) -> None:
        """Apply, and wait the second within which every replica is to have it."""
        with self.client() as client:
            client.apply(text)
        time.sleep(1.0)

    def dspex(self, *arguments: str) -> str:
        """The stdout of a `dspex` command that must succeed."""
        return run_dspex(self.environment, *arguments)

    def up(self) -> dict[str, str]:
        return up(self.environment, self.port, self.config)


def up(environment: Mapping[str, str], port: int, config: Path) -> dict[str, str]:
    """`dspex up`: what it says."""
    printed = run_dspex(environment, "up", "--port", str(port), "--config", str(config), "--json")
    said: dict[str, str] = json.loads(printed)
    return said


def run_dspex(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dspex_ray.cli", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"dspex {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
    return done.stdout


def command_line(process: psutil.Process) -> list[str]:
    """[] when it has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def obliging(prompt: Prompt) -> Answer:
    """Answers DSPy's chat prompts in their format, `yes` in every field; else as usual."""
    fields = _FIELDS.search(prompt.last)
    if fields is None:
        return default_answer(prompt)
    names = re.findall(r"\[\[ ## (\w+) ## \]\]", fields[1])
    told = "".join(f"[[ ## {name} ## ]]\nyes\n\n" for name in names)
    return f"{told}[[ ## completed ## ]]"


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config) -> Platform:
    """Started by the first test that asks; ended with the last one, whichever folder it is in."""
    found: Platform = resident(pytestconfig).live("platform", _started)
    return found


@contextmanager
def _started() -> Iterator[Platform]:
    home = Path(tempfile.mkdtemp(prefix="dxe-"))  # short, unlike pytest's: it holds unix sockets
    config = home / "serve.yaml"
    config.write_text(_two_replicas(), encoding="utf-8")
    port = _free_port()
    try:
        with ProviderSimulator(obliging) as simulator:
            draft = Platform(home, f"http://127.0.0.1:{port}", port, "", config, simulator)
            said = up(draft.environment, port, config)
            assert said["url"] == draft.url
            yield replace(draft, key=said["api_key"])
    finally:
        Instance(home).down()
        shutil.rmtree(home, ignore_errors=True)


def _two_replicas() -> str:
    """The laptop's configuration, with more than one gateway to tell a change to."""
    config = yaml.safe_load(LAPTOP_CONFIG.read_text(encoding="utf-8"))
    [gateway] = [app for app in config["applications"] if app["name"] == "gateway"]
    gateway["deployments"][0]["num_replicas"] = REPLICAS
    return yaml.safe_dump(config)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
