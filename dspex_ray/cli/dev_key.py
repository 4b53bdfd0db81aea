"""The development key: made once for an instance, kept in its home for the commands beside it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import SecretStr

from dspex_ray.access.model import MintedKey, NewApiKey
from dspex_ray.access.service import KeyService
from dspex_ray.core.actor import SYSTEM, Scope
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.errors import Denied
from dspex_ray.core.ids import new_id
from dspex_ray.db.engine import Database

_NAME = "development"


def ensure_dev_key(file: Path, database_url: SecretStr, *, shared: bool) -> SecretStr | None:
    """A new key with every scope, written to `file`; None when the one there still opens.

    In a `shared` database, which may have owners of its own, only the very first key is made.
    """
    held = file.read_text(encoding="utf-8").strip() if file.exists() else None
    minted = asyncio.run(_ensure(held, database_url, shared))
    if minted is None:
        return None
    _write_private(file, minted.secret)
    return SecretStr(minted.secret)


async def _ensure(held: str | None, database_url: SecretStr, shared: bool) -> MintedKey | None:
    database = Database(database_url.get_secret_value())
    try:
        keys = KeyService(database, SystemClock())
        if held is not None and await _opens(keys, held):
            return None
        if shared:
            return await keys.first(_NAME)
        # A name of its own: one whose secret was lost may be alive still.
        name = f"{_NAME}-{new_id().hex[-8:]}"
        return await keys.create(SYSTEM, NewApiKey(name=name, scopes=tuple(Scope)))
    finally:
        await database.close()


async def _opens(keys: KeyService, secret: str) -> bool:
    try:
        await keys.authenticate(f"Bearer {secret}")
    except Denied:
        return False
    return True


def _write_private(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        os.fchmod(descriptor, 0o600)  # before the secret: the file may have been there
        opened.write(text)
