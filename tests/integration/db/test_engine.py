"""What every session of the pool is set to."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dspex_ray.db.engine import Database

pytestmark = pytest.mark.integration


async def test_a_session_stages_little(database: Database) -> None:
    """Also after a transaction that failed: the setting is the session's, not a transaction's."""
    async with database.write() as conn:
        assert (await conn.execute(text("SHOW temp_buffers"))).scalar_one() == "1MB"
        with pytest.raises(DBAPIError, match="division by zero"):
            await conn.execute(text("SELECT 1 / 0"))
    async with database.write() as conn:
        assert (await conn.execute(text("SHOW temp_buffers"))).scalar_one() == "1MB"
