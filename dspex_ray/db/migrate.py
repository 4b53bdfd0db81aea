"""Bring a database to the newest schema; safe to run from many processes, and under load.

Every migration says its phase. `expand` only adds, so that the release before goes on working on
the new schema; `contract` takes away what no running release uses any more. An upgrade without
downtime is: expand, replace the processes, contract (docs/operations/upgrading.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from dspex_ray.core.errors import Unavailable

_LOCK = 7301_4411_0001  # one advisory lock for all of dspex-ray's migrations
# Whoever queues for a table's lock stops everybody behind it: rather give up, and try again.
_LOCK_TIMEOUT_MS = 2_000
_TRIES = 15
_PAUSE_S = 1.0

Phase = Literal["expand", "contract"]


class Revision(NamedTuple):
    """One migration. `phase` is about the release before it."""

    id: str
    phase: Phase
    title: str


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def revisions() -> list[Revision]:
    """All that this release knows, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config())
    found = [
        Revision(script.revision, script.module.phase, (script.doc or "").split("\n")[0])
        for script in scripts.walk_revisions()
    ]
    return found[::-1]


def pending(url: str) -> list[Revision]:
    """What this database has not seen, oldest first; all of it when the schema is empty."""
    with _connection(url) as connection:
        return _pending(connection)


def migrate(
    url: str, *, contract: bool = True, sleep: Callable[[float], None] = time.sleep
) -> list[Revision]:
    """Upgrade behind an advisory lock: a second process waits, then does nothing.

    Without `contract` it stops before the first contracting migration, except in an empty
    database, which no other release uses. Returns what was done. Raises Unavailable, with nothing
    done, when a table stays locked by others.
    """
    with _connection(url) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}"))
        connection.commit()
        waiting = _pending(connection)
        done = waiting if contract or len(waiting) == len(revisions()) else _expanding(waiting)
        if done:
            _upgrade(connection, done[-1].id, sleep)
        return done  # the lock goes with the connection


def _connection(url: str) -> Connection:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise Unavailable("the database does not answer", retry_after_s=5) from error
    connection.detach()  # closed with the `with` block: no pool keeps the lock
    return connection


def _pending(connection: Connection) -> list[Revision]:
    heads = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()
    known = revisions()
    at = next((place for place, known_one in enumerate(known, 1) if known_one.id in heads), 0)
    return [] if heads and not at else known[at:]  # a newer release's schema: nothing of ours


def _expanding(waiting: list[Revision]) -> list[Revision]:
    stop = next((i for i, one in enumerate(waiting) if one.phase == "contract"), len(waiting))
    return waiting[:stop]


def _upgrade(connection: Connection, revision: str, sleep: Callable[[float], None]) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    for attempt in range(_TRIES):
        try:
            command.upgrade(config, revision)
            connection.commit()
        except OperationalError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            if attempt == _TRIES - 1:
                raise Unavailable(
                    "a table is locked by others: end the long transactions, and try again",
                    retry_after_s=30,
                ) from error
            sleep(_PAUSE_S)
        else:
            return
