"""Whatever is sent through the real doors: no error of ours or of Serve's, no secret."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.contract import Said, ask_everything
from tests.faults.house import House

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.parametrize("root", ["", "/api"])
async def test_every_operation(house: House, root: str) -> None:
    """Lost: nothing. tests/integration/api/test_any_request.py asks more, closer to the app."""
    right, wrong = f"Bearer {house.key}", "Bearer wrong"
    answer = httpx.get(f"{house.url}{root}/openapi.json", headers={"authorization": right})
    schema = answer.raise_for_status().json()
    places = {path: {"program": "judge"} for path in schema["paths"] if "{program}" in path}
    answers = await asyncio.to_thread(
        ask_everything, schema, f"{house.url}{root}", [right, wrong], examples=1, places=places
    )
    every = [said for each in answers.values() for said in each]
    hidden = [house.planted.provider_key, house.planted.database_password, house.key]
    hidden.append(house.planted.secret_key)
    assert [said for said in every if said.status >= 500] == []
    assert [said for said in every if any(secret in said.text for secret in hidden)] == []
    assert 200 in _told(answers[right])
    assert _told(answers[wrong]) <= {400, 401, 422}


def _told(answers: list[Said]) -> set[int]:
    return {said.status for said in answers if not said.operation.endswith("z")}
