"""The control plane over a real Postgres: only the provider and the clock are doubles."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import insert, text

from dspex_ray.access.model import NewApiKey
from dspex_ray.api.control import control_app
from dspex_ray.bootstrap import Services, keyring_of, services_of
from dspex_ray.core.actor import SYSTEM, Scope
from dspex_ray.core.ids import ProjectId, uuid7
from dspex_ray.db.engine import Database
from dspex_ray.db.tables import projects
from dspex_ray.models.model import ErrorClass, HealthCheck, Model
from dspex_ray.settings import Settings
from dspex_ray.testing.fake_clock import FakeClock
from tests.integration.rows import Rows

STRANGER = ProjectId(uuid7(1_700_000_000_000, 77))  #: a second project
PUBLIC_URL = "https://8.8.8.8/v1"  #: a public address without a name to look up; never called


class StepClock(FakeClock):
    """The wall clock stands still; each look at the monotonic one is half a second later, so
    that whoever waits for others is soon done waiting."""

    def monotonic(self) -> float:
        self._monotonic += 0.5
        return self._monotonic


class ScriptedProvider:
    """In place of the provider's answer to a check: passes unless told what comes next."""

    def __init__(self, clock: FakeClock) -> None:
        self.script: deque[ErrorClass | None] = deque()
        self.asked: list[tuple[str, str | None]] = []
        self._clock = clock

    def fail(self, times: int, error: ErrorClass = ErrorClass.SERVER) -> None:
        self.script.extend([error] * times)

    async def __call__(self, model: Model, key: SecretStr | None) -> HealthCheck:
        self.asked.append((model.name, None if key is None else key.get_secret_value()))
        error = self.script.popleft() if self.script else None
        return HealthCheck(
            model_id=model.id,
            at=self._clock.now(),
            ok=error is None,
            latency_ms=100.0,
            error_class=error,
            message=None if error is None else "the provider said no",
        )


@pytest.fixture
def clock() -> FakeClock:
    return StepClock()


@pytest.fixture
def provider(clock: FakeClock) -> ScriptedProvider:
    return ScriptedProvider(clock)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        database_url=SecretStr(database_url),
        secret_key=SecretStr(Fernet.generate_key().decode()),
        program_packages=("dspy", "dspex_ray.testing.sample_programs"),
    )


@pytest.fixture
def environment() -> dict[str, str]:
    """What the process's environment holds, as far as provider keys are concerned."""
    return {"PROVIDER_KEY": "env-key-3"}


@pytest.fixture
def services(
    settings: Settings,
    database: Database,
    environment: dict[str, str],
    provider: ScriptedProvider,
    clock: FakeClock,
) -> Services:
    return services_of(settings, database, keyring_of(settings, environment), provider, clock)


@pytest.fixture
def app(services: Services) -> FastAPI:
    return control_app(services)


Client = Callable[[str | None], httpx.AsyncClient]


@pytest.fixture
async def client_of(app: FastAPI) -> AsyncIterator[Client]:
    """A client that sends this key (none: no header); addresses are as Serve has them."""
    opened: list[httpx.AsyncClient] = []

    def client(secret: str | None) -> httpx.AsyncClient:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        transport = httpx.ASGITransport(app=app, root_path="/api")
        opened.append(
            httpx.AsyncClient(transport=transport, base_url="http://dspex/api", headers=headers)
        )
        return opened[-1]

    yield client
    for one in opened:
        await one.aclose()


@pytest.fixture
async def keys(services: Services) -> dict[Scope, str]:
    """A key of each scope alone, of the default project."""
    return {
        scope: (
            await services.keys.create(SYSTEM, NewApiKey(name=scope.value, scopes=(scope,)))
        ).secret
        for scope in Scope
    }


@pytest.fixture
async def api(client_of: Client, keys: dict[Scope, str]) -> httpx.AsyncClient:
    """With a key that may do everything in the default project."""
    return client_of(keys[Scope.ADMIN])


@pytest.fixture
async def stranger(client_of: Client, services: Services) -> httpx.AsyncClient:
    """With a key that may do everything in the other project."""
    async with services.database.write() as conn:
        values = {"id": STRANGER, "name": "other", "created_at": services.clock.now()}
        await conn.execute(insert(projects).values(**values))
    actor = SYSTEM._replace(project_id=STRANGER)
    minted = await services.keys.create(actor, NewApiKey(name="strange", scopes=(Scope.ADMIN,)))
    return client_of(minted.secret)


@pytest.fixture
def rows(database: Database) -> Rows:
    return Rows(database)


async def refuse_configuration_changes(database: Database) -> None:
    """From here on the last statement of every configuration transaction fails, in Postgres."""
    async with database.write() as conn:
        await conn.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$"
            )
        )
        await conn.execute(
            text(
                "CREATE TRIGGER refuse BEFORE UPDATE ON configuration "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )


def a_model(name: str = "m", **change: Any) -> dict[str, Any]:
    """The body that registers a model of any OpenAI-compatible server."""
    body = {
        "name": name,
        "provider": "openai_compatible",
        "model_name": "any",
        "base_url": PUBLIC_URL,
    }
    return body | change


def a_program(
    name: str = "p", signature: str = "question -> answer", **change: Any
) -> dict[str, Any]:
    """The body that creates a program of one predictor, `main`, with its version 1."""
    source = {"module": {"type": "predict", "signature": signature}}
    return {"name": name, "source": source} | change


def ok(answer: httpx.Response, status: int = 200) -> Any:
    """The body of an answer that must have this status."""
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def refused(
    answer: httpx.Response, status: int, *, field: str | None = None, rule: str | None = None
) -> dict[str, Any]:
    """The problem of a refusal, which must name this field and this rule."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    details = problem["details"]
    assert (field, rule) in ((None, None), (details.get("field"), details.get("rule"))), details
    return problem
