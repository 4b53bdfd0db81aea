"""Where the platform is and which key opens it: as given, else as the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from dspex_ray.core.errors import Invalid

URL_VARIABLE = "DSPEX_URL"
KEY_VARIABLE = "DSPEX_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


class Address(NamedTuple):
    """`url` has no slash at its end; `key` None sends no Authorization header."""

    url: str
    key: SecretStr | None

    @property
    def headers(self) -> dict[str, str]:
        if self.key is None:
            return {}
        return {"Authorization": f"Bearer {self.key.get_secret_value()}"}


def address_of(
    base_url: str | None,
    api_key: str | SecretStr | None,
    environment: Mapping[str, str] | None = None,
) -> Address:
    """Raises Invalid when the URL is not http(s)://host, or the key cannot stand in a header."""
    if environment is None:
        environment = os.environ  # noqa: TID251 - the client is a door
    url = base_url or environment.get(URL_VARIABLE) or DEFAULT_URL
    key = api_key or environment.get(KEY_VARIABLE) or None
    secret = SecretStr(key) if isinstance(key, str) else key
    if secret is not None:
        _check_key(secret.get_secret_value())
    return Address(_check_url(url), secret)


def _check_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise Invalid(
            f"the URL of the platform is {url!r}: must be http(s)://host[:port]",
            field="base_url",
            rule="url",
        )
    return url.rstrip("/")


def _check_key(secret: str) -> None:
    if not (secret.isascii() and secret.isprintable()):
        raise Invalid(
            "the API key holds characters that no key has", field="api_key", rule="characters"
        )
