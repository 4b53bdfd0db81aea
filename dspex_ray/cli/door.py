"""Which platform a command talks to, and with which key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
import typer
from pydantic import BaseModel, SecretStr, ValidationError

from dspex_ray.client import Dspex
from dspex_ray.core.errors import Denied

DEFAULT_HOME = Path("/var/tmp/dspex-ray")  # noqa: S108 - as in settings, which the base install lacks
DEV_KEY_FILE = "dev-key"


class _Ports(BaseModel):
    http: int


class _Instance(BaseModel):
    """The part of instance.json that says where the instance answers."""

    host: str
    ports: _Ports

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - reads it
        return f"http://{host}:{self.ports.http}"


@dataclass(frozen=True)
class Door:
    """The global options. What they do not say, the instance in `home` does.

    `transport` replaces the network, for tests.
    """

    url: str | None = None
    api_key: SecretStr | None = None
    home: Path = DEFAULT_HOME
    transport: httpx.BaseTransport | None = None

    def client(self, *, timeout_s: float = 60.0) -> Dspex:
        local = _url_of(self.home)
        url = self.url or local
        key = self.api_key
        # The key of the local instance goes to no other server.
        if key is None and url is not None and url.rstrip("/") == local:
            key = read_dev_key(self.home)
        return Dspex(url, key, timeout_s=timeout_s, transport=self.transport)


def door_of(context: typer.Context) -> Door:
    door = context.find_object(Door)
    assert door is not None  # the root command puts it there
    return door


def read_dev_key(home: Path) -> SecretStr | None:
    """Raises Denied when others than its owner may read the file."""
    file = home / DEV_KEY_FILE
    try:
        mode = file.stat().st_mode
        secret = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    if mode & 0o077:
        raise Denied(f"{file} can be read by others: make its mode 0600, or give --api-key")
    return SecretStr(secret) if secret else None


def _url_of(home: Path) -> str | None:
    """Where the instance of this home answers; None when none was started."""
    try:
        return _Instance.model_validate_json((home / "instance.json").read_bytes()).url
    except (OSError, ValidationError):
        return None
