"""Provider keys at rest: sealed with the instance's secret key, opened only to make a call."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from dspex_ray.core.errors import Invalid

KEY_FILE = "secret.key"


class SecretBox:
    """Seals and opens short secrets. A sealed value names the key that sealed it, by fingerprint,
    so that a wrong key is told apart from a damaged value."""

    def __init__(self, key: SecretStr) -> None:
        try:
            self._fernet = Fernet(key.get_secret_value().encode())
        except ValueError:
            raise Invalid(
                "the secret key is not 32 bytes in urlsafe base64",
                field="secret_key",
                rule="secret key",
            ) from None
        self.fingerprint = hashlib.sha256(key.get_secret_value().encode()).hexdigest()[:8]

    def encrypt(self, secret: SecretStr) -> bytes:
        sealed = self._fernet.encrypt(secret.get_secret_value().encode())
        return self.fingerprint.encode() + b":" + sealed

    def decrypt(self, sealed: bytes) -> SecretStr:
        """The secret; raises Invalid when another key sealed it, or the value is damaged."""
        named, _, token = sealed.partition(b":")
        if token and named.decode(errors="replace") != self.fingerprint:
            raise Invalid(
                f"this value was sealed with secret key {named.decode(errors='replace')}, and the "
                f"key in use is {self.fingerprint}: set DSPEX_RAY_SECRET_KEY, or the home folder's "
                f"{KEY_FILE}, back to that key, or give the provider key again",
                field="secret_key",
                rule="secret key",
            )
        try:
            return SecretStr(self._fernet.decrypt(token).decode())
        except InvalidToken:
            raise Invalid(
                f"this value is damaged: secret key {self.fingerprint} does not open it",
                field="api_key",
                rule="secret key",
            ) from None


def load_key(settings_home: Path, configured: SecretStr | None) -> SecretStr:
    """The configured key, else the one in the home folder, made there on first use (mode 0600).

    Processes that start together all get the same key: the first file to be linked in wins.
    """
    if configured is not None:
        return configured
    path = settings_home / KEY_FILE
    if not path.exists():
        _create(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Invalid(
            f"{path} can be read by others: its mode must be 0600", field=KEY_FILE, rule="mode 0600"
        )
    return SecretStr(path.read_text(encoding="ascii").strip())


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{KEY_FILE}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # atomic, and refused when another process was first
    except FileExistsError:
        pass
    finally:
        os.unlink(name)
