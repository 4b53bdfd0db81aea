# Generated from ../aio/dspex.py by scripts/generate_sync_client.py: edit that one.
"""The client of the platform: its resources as attributes."""

from __future__ import annotations

from types import TracebackType

import httpx
from pydantic import SecretStr

from dspex_ray.client.address import address_of
from dspex_ray.client.bodies import Ask, params
from dspex_ray.client.sync.chat import Chat
from dspex_ray.client.sync.connection import Connection
from dspex_ray.client.sync.control import (
    Assignments,
    Audit,
    Executions,
    Keys,
    Models,
    Splits,
)
from dspex_ray.client.sync.datasets import Datasets
from dspex_ray.client.sync.evaluations import Evaluations
from dspex_ray.client.sync.optimizations import Optimizations
from dspex_ray.client.sync.placements import Placements
from dspex_ray.client.sync.programs import Programs
from dspex_ray.core.errors import Invalid
from dspex_ray.declarations.model import Plan
from dspex_ray.serving.model import Readiness


class Dspex:
    """A client of one platform; use it as `with Dspex() as client:`.

    `base_url` and `api_key` default to the environment's DSPEX_URL and DSPEX_API_KEY, the URL
    then to http://127.0.0.1:8000. A call that gets no byte for `timeout_s` seconds fails. Calls
    that are safe to repeat are tried up to `max_retries` more times when the platform is
    overloaded, limits the rate or cannot be reached; Retry-After is kept, unless it is longer
    than `timeout_s`: then the error comes at once.

    Raises the platform's own errors (`dspex_ray.core.errors`): `Unavailable` when it cannot be
    reached, `DeadlineExceeded` when it does not answer in time, plain `DspexRayError` when the
    answer is not understood.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        *,
        timeout_s: float = 60,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if timeout_s <= 0:
            raise Invalid(f"timeout_s is {timeout_s}: must be over 0", field="timeout_s")
        if max_retries < 0:
            raise Invalid(f"max_retries is {max_retries}: must be 0 or more", field="max_retries")
        self._connection = Connection(
            address_of(base_url, api_key),
            timeout_s=timeout_s,
            max_retries=max_retries,
            transport=transport,
        )
        self.models = Models(self._connection)
        self.programs = Programs(self._connection)
        self.assignments = Assignments(self._connection)
        self.splits = Splits(self._connection)
        self.placements = Placements(self._connection)
        self.executions = Executions(self._connection)
        self.datasets = Datasets(self._connection)
        self.evaluations = Evaluations(self._connection)
        self.optimizations = Optimizations(self._connection)
        self.keys = Keys(self._connection)
        self.audit = Audit(self._connection)
        self.chat = Chat(self._connection)

    @property
    def url(self) -> str:
        return self._connection.url

    def apply(self, text: str, *, dry_run: bool = False) -> Plan:
        """Make the resources that a YAML (or JSON) file's text declares; `dry_run` only plans."""
        ask = Ask(
            "POST",
            "/api/v1/apply",
            content=text.encode(),
            media_type="application/yaml",
            params=params(dry_run=dry_run),
            repeatable=dry_run,
        )
        return self._connection.call(Plan, ask)

    def healthz(self) -> None:
        """Returns when the platform's process answers; needs no key."""
        self._connection.send(Ask("GET", "/healthz", repeatable=True))

    def readyz(self) -> Readiness:
        """Whether it can serve, with what it says of itself; needs no key."""
        return self._connection.call(Readiness, Ask("GET", "/readyz", ok=(200, 503)))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Dspex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
