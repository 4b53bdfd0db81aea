"""Minting and verifying keys: pure, the same for the control plane and for the gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.errors import Denied
from dspex_ray.core.ids import KeyId, ProjectId

_MARK = "dspex"


class KeyRecord(NamedTuple):
    """What verifying needs of a key. `hash` is the SHA-256 of the whole secret."""

    id: KeyId
    project_id: ProjectId
    prefix: str
    hash: bytes
    scopes: frozenset[Scope]
    requests_per_minute: int | None
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def actor(self) -> Actor:
        return Actor(f"key:{self.prefix}", self.project_id, self.scopes)


def mint(random_bytes: Callable[[int], bytes]) -> tuple[str, str, bytes]:
    """A new secret as (prefix, secret, hash). 256 random bits: a plain SHA-256 is enough."""
    prefix = f"{_MARK}_{random_bytes(5).hex()}"
    body = base64.urlsafe_b64encode(random_bytes(32)).decode().rstrip("=")
    secret = f"{prefix}_{body}"
    return prefix, secret, digest(secret)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def prefix_of(secret: str) -> str | None:
    """The loggable part of a secret, or None when it does not look like one of ours."""
    parts = secret.split("_", 2)
    if len(parts) != 3 or parts[0] != _MARK:
        return None
    return f"{parts[0]}_{parts[1]}"


def bearer(authorization: str | None) -> str:
    """The secret of an Authorization header; raises Denied when there is none.

    Bearer, or the password of Basic: a browser that shows the API reference knows no other way.
    """
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        scheme, secret = "bearer", _password(secret)
    if scheme.lower() != "bearer" or not secret.strip():
        raise Denied("no API key: send 'Authorization: Bearer <key>'", reason="unauthenticated")
    return secret.strip()


def _password(credentials: str) -> str:
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except ValueError:
        return ""
    return decoded.partition(":")[2]


def verify(secret: str, record: KeyRecord | None, now: datetime) -> KeyRecord:
    """The record when the secret is its own and it is live; raises Denied otherwise.

    One message for an unknown and for a wrong secret, so that prefixes cannot be probed.
    """
    if record is None or not hmac.compare_digest(digest(secret), record.hash):
        raise Denied("this API key is not known", reason="unauthenticated")
    if record.revoked_at is not None:
        raise Denied(f"API key {record.prefix} is revoked", reason="unauthenticated")
    if record.expires_at is not None and record.expires_at <= now:
        raise Denied(f"API key {record.prefix} has expired", reason="unauthenticated")
    return record


def require(actor: Actor, scope: Scope) -> Actor:
    if not actor.may(scope):
        held = ", ".join(sorted(actor.scopes)) or "none"
        raise Denied(
            f"this needs the scope {scope.value!r}; the key has: {held}",
            reason="forbidden",
            scope=scope.value,
        )
    return actor
