"""One instance for everything that is broken on purpose and can be mended again."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.faults.house import House, house

__all__ = ["house", "whole"]

_IN_A_ROW = 10  # on a connection each: both gateways are met


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> None:
    """A test that uses the house finds it in order, whatever the one before has done to it."""
    if "house" not in request.fixturenames:
        return
    found: House = request.getfixturevalue("house")
    found.simulator.always(None)
    found.simulator.latency_s = 0.0
    deadline = time.monotonic() + 60
    answered = 0
    while answered < _IN_A_ROW:
        assert time.monotonic() < deadline, "the house does not answer"
        answered = answered + 1 if answers(found) else 0


def answers(house: House) -> bool:
    try:
        return httpx.post(
            f"{house.url}/v1/programs/judge/predict",
            json={"inputs": {"claim": "x"}},
            headers={"authorization": f"Bearer {house.key}"},
            timeout=30,
        ).is_success
    except httpx.TransportError:
        return False
