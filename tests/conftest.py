"""Fixtures that every floor shares: a real Postgres, one database a test."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import instances

_URL = "DSPEX_TEST_POSTGRES_URL"

# How long an example takes says how busy the machine is.
settings.register_profile("dspex-ray", deadline=None)
settings.load_profile("dspex-ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    instances.in_order(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    instances.make_room(item)


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The maintenance URL of a real Postgres that lives as long as this run.

    With xdist the controller's workers share one server: the first to come starts it.
    """
    given = os.environ.get(_URL)
    if given:
        yield given
        return
    from dspex_ray.db.embedded import EmbeddedPostgres

    folder = Path(tempfile.mkdtemp(prefix="dspex-t-"))
    server = EmbeddedPostgres(folder / "pg")
    try:
        yield server.start("postgres")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _database(url: str, name: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    """A migrated database to clone: cloning takes 50 ms, migrating 300."""
    import psycopg

    from dspex_ray.db.migrate import migrate

    name = f"template_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    migrate(_database(postgres_url, name))
    return name


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """The URL of a fresh, migrated database of this test's own."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield _database(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[object]:
    from dspex_ray.db.engine import Database

    opened = Database(database_url)
    yield opened
    await opened.close()
