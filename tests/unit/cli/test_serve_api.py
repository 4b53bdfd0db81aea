"""Ray's dashboard as an instance asks it: what it drops on a busy machine is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from dspex_ray.cli.serve_api import ServeApi
from dspex_ray.core.errors import Unavailable

RUNNING = {"applications": {"gateway": {"status": "RUNNING"}}}
Answer = httpx.Response | Exception
CLIENT = httpx.Client


@pytest.fixture
def api_that(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ServeApi]]:
    """One whose dashboard gives these answers, one after the other, the last for ever."""
    made: list[ServeApi] = []

    def of(*answers: Answer) -> ServeApi:
        waiting = list(answers)

        def answer(request: httpx.Request) -> httpx.Response:
            found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(
            httpx,
            "Client",
            lambda **given: CLIENT(**{**given, "transport": httpx.MockTransport(answer)}),
        )
        monkeypatch.setattr("dspex_ray.cli.serve_api._AGAIN_S", 0.01)
        made.append(ServeApi("http://127.0.0.1:1", "token"))
        return made[-1]

    yield of
    for api in made:
        api.close()


def nothing() -> None:
    """The node is alive."""


def test_waiting_outlives_answers_that_were_dropped(api_that: Callable[..., ServeApi]) -> None:
    dropped = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    api = api_that(dropped, dropped, httpx.ReadTimeout("slow"), httpx.Response(200, json=RUNNING))
    api.wait_running(["gateway"], timeout_s=5, check=nothing)


def test_waiting_ends_and_says_what_was_the_matter(api_that: Callable[..., ServeApi]) -> None:
    api = api_that(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match="refused"):
        api.wait_running(["gateway"], timeout_s=0.1, check=nothing)


def test_a_dropped_declaration_is_sent_again_once(api_that: Callable[..., ServeApi]) -> None:
    dropped = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    api_that(dropped, httpx.Response(200, json={})).deploy({}, timeout_s=1)
    with pytest.raises(Unavailable, match="disconnected"):
        api_that(dropped).deploy({}, timeout_s=1)
