"""Whatever is sent through the real doors: no error of ours or of Serve's, no secret."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.contract import ask_everything
from tests.faults.house import House

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.mark.parametrize("root", ["", "/api"])
@pytest.mark.parametrize("knows", [True, False])
async def test_every_operation(house: House, root: str, knows: bool) -> None:
    """Lost: nothing. tests/integration/api/test_any_request.py asks more, closer to the app."""
    right = {"authorization": f"Bearer {house.key}"}
    schema = httpx.get(f"{house.url}{root}/openapi.json", headers=right).raise_for_status().json()
    places = {path: {"program": "judge"} for path in schema["paths"] if "{program}" in path}
    headers = right if knows else {"authorization": "Bearer wrong"}
    answers = await asyncio.to_thread(
        ask_everything, schema, f"{house.url}{root}", headers, examples=1, places=places
    )
    hidden = [house.planted.provider_key, house.planted.database_password, house.key]
    hidden.append(house.planted.secret_key)
    assert [said for said in answers if said.status >= 500] == []
    assert [said for said in answers if any(secret in said.text for secret in hidden)] == []
    told = {said.status for said in answers if not said.operation.endswith("z")}
    assert told <= {400, 401, 422} if not knows else 200 in told
