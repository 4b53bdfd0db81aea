"""Where peers are installed and benchmarks write: a cache folder outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_MARK: Final = ".holds"  #: a file that names what a folder holds, once it does


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dspex-ray-bench`, or below `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "dspex-ray-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_environment(name: str, requirement: str) -> Path:
    """The `bin` folder of an environment of its own that holds `requirement`."""
    folder = cache_folder() / name
    if not _holds(folder, requirement):
        print(f"installing {requirement} into {folder}", flush=True)
        uv = str(Path(sys.executable).parent / "uv")
        made = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(made, check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "-q", "--python", python, requirement], check=True)
        _mark(folder, requirement)
    return folder / "bin"


def npm_package(name: str, version: str, folder_name: str) -> Path:
    """The folder of an npm package. Raises RuntimeError where there is no npm."""
    folder = cache_folder() / folder_name
    wanted = f"{name}@{version}"
    if not _holds(folder, wanted):
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(f"{name} needs npm, and there is none here")
        print(f"installing {wanted} into {folder}", flush=True)
        folder.mkdir(exist_ok=True)
        quiet = ["--silent", "--no-audit", "--no-fund"]
        subprocess.run([npm, "install", *quiet, "--prefix", str(folder), wanted], check=True)
        _mark(folder, wanted)
    return folder / "node_modules" / name


def _holds(folder: Path, wanted: str) -> bool:
    try:
        return (folder / _MARK).read_text(encoding="utf-8") == wanted
    except FileNotFoundError:
        return False


def _mark(folder: Path, wanted: str) -> None:
    (folder / _MARK).write_text(wanted, encoding="utf-8")
