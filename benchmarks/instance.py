"""An instance of the platform for a benchmark: started by `dspex up`, as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import benchmarks
from dspex_ray.cli.door import DEV_KEY_FILE
from dspex_ray.cli.instance import LAPTOP_CONFIG, InstanceState
from dspex_ray.cli.instance import Instance as Lifecycle

_REPOSITORY = Path(benchmarks.__file__).parent.parent
_OURS = ("DSPEX_", "RAY_")
_DECLARED = """
managed_by: benchmark
models:
  - name: mock
    provider: openai_compatible
    model_name: mock-1
    base_url: {upstream}
    price: {{prompt_usd_per_token: "0.000001", completion_usd_per_token: "0.000002"}}
    approved: true
programs:
  - name: answerer
    source: {{signature: "question -> answer", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: mock}}]
"""


class Instance:
    """The laptop's configuration, and `applications` more of Serve's beside it.

    A context manager: entering starts it, leaving ends it and removes its home.
    """

    def __init__(self, applications: tuple[Mapping[str, Any], ...] = ()) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="dxb-"))  # short: unix sockets lie in it
        self._config = self.home / "serve.yaml"
        self._applications = applications

    def __enter__(self) -> Instance:
        config = yaml.safe_load(LAPTOP_CONFIG.read_text(encoding="utf-8"))
        config["applications"] += self._applications
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")
        try:
            self.start_s = self.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        shutil.rmtree(self.home, ignore_errors=True)

    def up(self) -> float:
        """Start it on what its home holds; the seconds until `dspex up` has it ready."""
        started = time.perf_counter()
        said = json.loads(self.dspex("up", "--config", str(self._config), "--json"))
        taken = time.perf_counter() - started
        self.url: str = said["url"]
        return taken

    def down(self) -> None:
        Lifecycle(self.home).down()

    @property
    def key(self) -> str:
        return (self.home / DEV_KEY_FILE).read_text(encoding="ascii").strip()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def state(self) -> InstanceState:
        """Raises RuntimeError when it does not run."""
        state = Lifecycle(self.home).status().state
        if state is None:
            raise RuntimeError(f"no instance runs in {self.home}")
        return state

    def declare(self, upstream: str) -> None:
        """A model `mock` with prices at `upstream`, and a program `answerer` on it."""
        file = self.home / "declared.yaml"
        file.write_text(_DECLARED.format(upstream=upstream), encoding="utf-8")
        self.dspex("apply", "-f", str(file))
        time.sleep(1)  # within which every replica has it

    def drained(self, timeout_s: float = 60) -> None:
        """Wait until the spool holds no record. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while any(segment.stat().st_size for segment in self._segments()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the spool is not drained after {timeout_s:.0f} s")
            time.sleep(0.2)

    def dspex(self, *arguments: str) -> str:
        """The stdout of a `dspex` command. Raises RuntimeError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "dspex_ray.cli", "--home", str(self.home), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(f"dspex {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def _segments(self) -> list[Path]:
        return [file for file in (self.home / "spool").rglob("*") if file.is_file()]

    def _environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}
        return {
            **kept,
            "PYTHONPATH": str(_REPOSITORY),  # replicas of the benchmark's own application
            "DSPEX_RAY_ALLOW_PRIVATE_BASE_URLS": "true",
        }
