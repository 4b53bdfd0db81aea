"""The import contracts of pyproject.toml hold; and they could fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).parent / "lint-imports"
# A variable is many nouns: what a space is made of stands in two more files; runs of optimizers
# beside what optimizers themselves are given and hand back.
OTHER_NOUNS = (
    "dspex_ray.optimization.front",
    "dspex_ray.optimization.held_out",
    "dspex_ray.optimization.runs",
    "dspex_ray.variables.conditions",
    "dspex_ray.variables.domains",
)
LIGHT = {"annotated_types", "httpx", "pydantic", "pydantic_core", "typing_extensions"}


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT), "--no-cache", "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout[-4_000:]


def test_a_contract_that_is_broken_is_found(tmp_path: Path) -> None:
    """The control plane does reach SQL, by way of the rooms' services."""
    config = tmp_path / "broken.toml"
    config.write_text(
        """
        [tool.importlinter]
        root_packages = ["dspex_ray"]
        include_external_packages = true

        [[tool.importlinter.contracts]]
        name = "broken"
        type = "forbidden"
        source_modules = ["dspex_ray.access.routes"]
        forbidden_modules = ["sqlalchemy"]
        """
    )
    done = lint(config)
    assert done.returncode == 1
    assert "dspex_ray.access.service -> sqlalchemy" in done.stdout


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("dspex_ray", include_external_packages=True, cache_dir=None)


def test_the_client_imports_core_and_nouns_alone(graph: grimp.ImportGraph) -> None:
    """Directly and by way of what it imports: contracts can only name what is forbidden."""
    reached = graph.find_upstream_modules("dspex_ray.client", as_package=True)
    ours = {name for name in reached if name.split(".")[0] == "dspex_ray"}
    packages = {name for name in ours if graph.find_children(name)}
    strange = {
        name
        for name in ours - packages
        if not name.startswith(("dspex_ray.core.", "dspex_ray.client."))
        and not name.endswith((".model", *OTHER_NOUNS))
    }
    assert strange == set()
    foreign = {name.split(".")[0] for name in reached - ours} - sys.stdlib_module_names
    assert foreign <= LIGHT


def test_a_rooms_init_is_a_docstring() -> None:
    """So that importing a room's noun imports nothing else of the room."""
    for path in sorted((ROOT / "dspex_ray").glob("*/__init__.py")):
        if path.parent.name not in ("client",):  # its __init__ is the SDK's public list
            assert len(path.read_text().strip().splitlines()) == 1, path


def test_importing_the_client_brings_nothing_heavy() -> None:
    program = """
import sys
import dspex_ray.client
heavy = {"alembic", "dspy", "fastapi", "litellm", "numpy", "procrastinate", "psycopg", "ray",
         "scipy", "sqlalchemy", "starlette", "structlog", "yaml"}
print(sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
