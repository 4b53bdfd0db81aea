"""The package as it is delivered: the sync half is fresh, and importing it stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dspex_ray.client

ROOT = Path(__file__).parents[3]
# What httpx, pydantic and the standard library bring, and nothing else. (httpx brings its
# command line and HTTP/2 along wherever their packages are installed.)
ALLOWED = {
    "annotated_types",
    "anyio",
    "certifi",
    "click",
    "dspex_ray",
    "h11",
    "h2",
    "hpack",
    "httpcore",
    "httpx",
    "hyperframe",
    "idna",
    "markdown_it",
    "mdurl",
    "pydantic",
    "pydantic_core",
    "pygments",
    "rich",
    "sniffio",
    "typing_extensions",
    "typing_inspection",
}
SCRIPT = """
import sys
from dspex_ray.client import AsyncDspex, Dspex
with Dspex("http://127.0.0.1:1", "k"):
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_sync_client_is_what_the_async_one_makes() -> None:
    script = ROOT / "scripts" / "generate_sync_client.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_client_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = {name for name in done.stdout.split() if not name.startswith(("_", "cython"))}
    assert found - set(sys.stdlib_module_names) - ALLOWED == set()


def test_public_names() -> None:
    assert dspex_ray.client.__all__ == ["AsyncDspex", "Dspex"]
