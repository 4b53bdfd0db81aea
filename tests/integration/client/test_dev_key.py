"""The development key, in a real database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from dspex_ray.access.service import KeyService
from dspex_ray.cli.dev_key import ensure_dev_key
from dspex_ray.cli.door import read_dev_key
from dspex_ray.core.actor import SYSTEM, Actor, Scope
from dspex_ray.core.clock import SystemClock
from dspex_ray.db.engine import Database

pytestmark = pytest.mark.integration


def actor_of(url: str, secret: SecretStr) -> Actor:
    async def authenticate() -> Actor:
        database = Database(url)
        try:
            keys = KeyService(database, SystemClock())
            return await keys.authenticate(f"Bearer {secret.get_secret_value()}")
        finally:
            await database.close()

    return asyncio.run(authenticate())


@pytest.mark.parametrize("shared", [False, True])
def test_the_first_key_opens_everything_and_is_made_once(
    database_url: str, tmp_path: Path, shared: bool
) -> None:
    file, url = tmp_path / "dev-key", SecretStr(database_url)
    key = ensure_dev_key(file, url, shared=shared)
    assert key is not None
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_dev_key(tmp_path) == key
    actor = actor_of(database_url, key)
    assert all(actor.may(scope) for scope in Scope)
    assert actor.project_id == SYSTEM.project_id
    assert ensure_dev_key(file, url, shared=shared) is None
    assert read_dev_key(tmp_path) == key


def test_a_lost_key_is_replaced_in_a_database_of_its_own(database_url: str, tmp_path: Path) -> None:
    file, url = tmp_path / "dev-key", SecretStr(database_url)
    ensure_dev_key(file, url, shared=False)
    file.write_text("dspex_0_wrong")
    file.chmod(0o644)
    again = ensure_dev_key(file, url, shared=False)
    assert again is not None
    assert read_dev_key(tmp_path) == again


def test_a_shared_database_gives_no_further_key(database_url: str, tmp_path: Path) -> None:
    url = SecretStr(database_url)
    ensure_dev_key(tmp_path / "first", url, shared=True)
    assert ensure_dev_key(tmp_path / "second", url, shared=True) is None
    assert not (tmp_path / "second").exists()
