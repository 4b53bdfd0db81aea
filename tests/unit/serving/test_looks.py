"""When Serve is asked again, and when what it said is still good."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dspex_ray.serving.looks import Applications, Looks
from dspex_ray.testing.fake_clock import FakeClock


class Serve:
    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.asked = 0

    def look(self) -> Applications:
        self.asked += 1
        return {
            name: SimpleNamespace(status=SimpleNamespace(value=status))
            for name, status in self.runs.items()
        }


@pytest.fixture
def serve() -> Serve:
    return Serve()


def test_what_is_as_wanted_is_looked_at_every_five_seconds(serve: Serve) -> None:
    clock = FakeClock()
    looks = Looks(clock, serve.look)
    serve.runs = {"hosted-a": "RUNNING", "control": "RUNNING"}
    for _ in range(3):
        assert set(looks.applications("hosted-", ["hosted-a"])) == {"hosted-a"}
        assert looks.applications("dedicated-", []) == {}
        clock.advance(1.5)
    assert serve.asked == 1
    clock.advance(0.6)
    looks.applications("hosted-", ["hosted-a"])
    assert serve.asked == 2


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        ({"hosted-a": "DEPLOYING"}, ["hosted-a"]),
        ({"hosted-a": "UNHEALTHY"}, ["hosted-a"]),
        ({"hosted-a": "RUNNING"}, []),  # it is to go
        ({}, ["hosted-a"]),  # it is to come
    ],
)
def test_anything_else_is_looked_at_each_time(
    serve: Serve, runs: dict[str, str], wanted: list[str]
) -> None:
    looks = Looks(FakeClock(), serve.look)
    serve.runs = runs
    for number in range(1, 4):
        assert set(looks.applications("hosted-", wanted)) == set(runs)
        assert serve.asked == number
