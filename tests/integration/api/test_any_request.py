"""Whatever a client sends to either plane: no error of ours, and no secret in any answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from dspex_ray.core.actor import Scope
from dspex_ray.programs.model import ProgramSource
from dspex_ray.settings import Settings
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import ProviderSimulator
from tests.contract import Said, ask_everything
from tests.integration.api.house import SEARCH, House, calls
from tests.integration.conftest import a_model, ok

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PLANTED = "sk-planted-0123456789abcdef"
SIGNATURE = ProgramSource(signature="question -> answer", module={"type": "predict"})


@asynccontextmanager
async def served(app: FastAPI, root_path: str) -> AsyncIterator[str]:
    """The app on a real socket, on this loop; below `root_path`, as Serve mounts it."""
    config = uvicorn.Config(app, port=0, root_path=root_path, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving


def faults(answers: list[Said], secrets: list[str]) -> list[Said]:
    return [
        said
        for said in answers
        if said.status >= 500 or any(secret in said.text for secret in secrets)
    ]


async def test_control_plane(
    app: FastAPI,
    api: httpx.AsyncClient,
    keys: dict[Scope, str],
    house: House,
    settings: Settings,
) -> None:
    planted = a_model("planted", api_key=PLANTED)
    ok(await api.post("/v1/models", json=planted), 201)
    assert settings.secret_key is not None
    secrets = [PLANTED, "env-key-3", settings.secret_key.get_secret_value(), *keys.values()]
    places = {call.path: call.at for call in calls(house)}
    # Not the run whose events are read: those of a resumed one would go on.
    resumed = ok(await api.post("/v1/optimizations", json=SEARCH), 202)["id"]
    ok(await api.post(f"/v1/optimizations/{resumed}/cancel"))
    places["/v1/optimizations/{run_id}/resume"] = {"run_id": resumed}

    admin = f"Bearer {keys[Scope.ADMIN]}"
    async with served(app, "/api") as url:
        answers = await asyncio.to_thread(
            ask_everything,
            app.openapi(),
            url,
            [admin, "Bearer wrong", ""],
            examples=3,
            places=places,
        )
    assert faults([said for each in answers.values() for said in each], secrets) == []
    # Unreadable bodies are refused before anybody asks who sent them.
    assert {said.status for said in answers["Bearer wrong"]} <= {400, 401, 422}
    assert {said.status for said in answers[""]} <= {400, 401, 422}
    told = Counter(said.status for said in answers[admin])
    assert told[200] + told[201] + told[202] > 50
    assert told[401] == 0


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    with ProviderSimulator() as simulator, DataPlane(tmp_path / "spool") as plane:
        model = plane.add_model("m", simulator.url)
        plane.assign(plane.add_program("p", SIGNATURE), model)
        plane.assign("r", model)
        yield plane


def test_data_plane(plane: DataPlane) -> None:
    key = f"Bearer {plane.key}"
    schema = httpx.get(f"{plane.url}/openapi.json", headers={"authorization": key}).json()
    places = {path: {"program": "p"} for path in schema["paths"] if "{program}" in path}
    answers = ask_everything(
        schema, plane.url, [key, "Bearer wrong", ""], examples=20, places=places
    )
    assert faults([said for each in answers.values() for said in each], [plane.key, PLANTED]) == []
    for authorization, each in answers.items():
        asked = {said.status for said in each if not said.operation.endswith("z")}
        assert (asked == {401}) is (authorization != key)
        if authorization == key:
            assert {200, 400} <= asked
