"""From how a provider key is kept to the key itself; the only place that opens one."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from dspex_ray.core.errors import Invalid
from dspex_ray.models.secrets import SecretBox
from dspex_ray.models.store import StoredKey


class KeyRing:
    """Opens stored keys. `environment` is the process's, taken at the door."""

    def __init__(self, box: SecretBox, environment: Mapping[str, str]) -> None:
        self._box = box
        self._environment = environment

    def store(self, key: SecretStr | None, env: str | None) -> StoredKey:
        return StoredKey(None if key is None else self._box.encrypt(key), env)

    def open(self, stored: StoredKey) -> SecretStr | None:
        """The key, or None when the model has none. Raises Invalid when the referenced
        environment variable is not set in this process."""
        if stored.ciphertext is not None:
            return self._box.decrypt(stored.ciphertext)
        if stored.env is None:
            return None
        value = self._environment.get(stored.env)
        if not value:
            raise Invalid(
                f"environment variable {stored.env!r} is not set on the server",
                field="api_key_ref",
                rule="set",
            )
        return SecretStr(value)
