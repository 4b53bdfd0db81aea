"""Only our doors open, only our refusals are heard: by port, by header, by load, by deadline."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import httpx
import psutil
import pytest

from dspex_ray.testing.provider_simulator import Fault
from tests.faults.house import MAX_INFLIGHT, MAX_ONGOING, House
from tests.faults.load import prediction

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HOSTED = """
managed_by: faults
models:
  - name: hosted
    provider: local
    model_name: smollm2-135m-instruct
    context_window: 512
    approved: true
"""
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "x"}]}
PROBES: tuple[tuple[str, str, object], ...] = (
    ("GET", "/", None),
    ("GET", "/v1/models", None),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
    ("GET", "/api/v1/models", None),
    ("GET", "/api/v1/keys", None),
    ("GET", "/api/openapi.json", None),
    ("GET", "/api/serve/applications/", None),
    ("GET", "/api/v0/actors", None),
    ("GET", "/stats", None),
    ("POST", "/", {"model": "hosted", "messages": []}),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/programs/judge/predict", {"inputs": {"claim": "x"}}),
    ("POST", "/api/v1/models", {}),
    ("POST", "/api/jobs/", {"entrypoint": "true"}),
)
HEALTH = ("/-/healthz", "/-/routes", "/healthz", "/readyz")


class Probed(NamedTuple):
    port: int
    request: str
    status: int
    start: str


async def probe(ports: set[int]) -> list[Probed]:
    """What each port answers to each probe; those that speak no HTTP answer nothing."""
    health: list[tuple[str, str, object]] = [("GET", path, None) for path in HEALTH]
    limits = httpx.Limits(max_connections=64)

    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(5, pool=None)) as client:

        async def ask(port: int, method: str, path: str, body: object) -> Probed | None:
            try:
                answer = await client.request(method, f"http://127.0.0.1:{port}{path}", json=body)
            except httpx.HTTPError:
                return None
            return Probed(port, f"{method} {path}", answer.status_code, answer.text[:2000])

        asked = [ask(port, *wanted) for port in ports for wanted in (*PROBES, *health)]
        return [one for one in await asyncio.gather(*asked) if one is not None]


def is_harmless(probed: Probed, house: House) -> bool:
    """What may be answered without a key: refusals, health, figures, the dashboard's empty page."""
    ports = house.state.ports
    path = probed.request.split()[1]
    if probed.status in {401, 403, 404, 405}:
        return True
    if probed.port in {ports.haproxy_metrics, ports.haproxy_stats}:
        return probed.status == 500 or path == "/stats"  # 500: no such page
    if path in HEALTH:
        return probed.status == 200
    if probed.start.startswith("# HELP"):
        return True
    return probed.port == ports.dashboard and path == "/" and "<html" in probed.start


async def test_ports_without_a_key(house: House) -> None:
    """Every port of the instance, those of internal deployments among them. Lost: nothing."""
    with house.client() as client:
        client.apply(HOSTED)
        answers = client.chat.complete("hosted", [{"role": "user", "content": "Hi."}], max_tokens=4)
        assert answers.text is not None
    listening: dict[int, str] = {}
    for process in house.processes():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for connection in process.net_connections("tcp"):
                if connection.status == "LISTEN" and connection.laddr:
                    listening[connection.laddr.port] = "".join(process.cmdline()[:1])
    served = house.simulator.served
    found = await probe(set(listening))
    assert [one for one in found if not is_harmless(one, house)] == []
    assert house.simulator.served == served
    of_host = [one for one in found if ":hosted" in listening[one.port]]
    assert {one.start for one in of_host if one.request == "POST /" and one.status != 401} >= {
        "internal deployment: not served over HTTP"
    }
    with house.client() as client:
        client.models.deprecate("hosted")  # its process ends: other tests need the cores


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-timeout-seconds", "600"),
        ("x-request-timeout-seconds", "0"),
        ("x-request-timeout-seconds", "0.00001"),  # Serve itself would answer 408
        ("X-Request-Timeout-Seconds", "-1"),
        ("x-request-disconnect-disabled", "?1"),
    ],
)
def test_limits_lifted_by_header(house: House, name: str, value: str) -> None:
    """Lost: nothing. No client sets the time that Serve gives it."""
    headers = {name: value, "authorization": f"Bearer {house.key}"}
    served = house.simulator.served
    for method, path, body, status in (
        ("POST", "/v1/chat/completions", CHAT, 400),
        ("GET", "/v1/models", None, 400),
        ("POST", "/v1/programs/judge/predict", {"inputs": {"claim": "x"}}, 400),
        ("GET", "/api/v1/models", None, 422),
    ):
        answer = httpx.request(method, f"{house.url}{path}", json=body, headers=headers, timeout=30)
        assert answer.status_code == status
        assert "is not allowed: use x-dspex-timeout-ms" in answer.text
        assert answer.json().get("error", answer.json())["code"] == "invalid"
    assert house.simulator.served == served


async def test_more_than_fits(house: House) -> None:
    """Lost: nothing. A burst beyond what gateways take at once, and beyond what Serve hands
    them, is shed in our words."""
    house.simulator.latency_s = 2.0
    burst = house.load(prediction("judge"), 2 * MAX_ONGOING + 2 * MAX_INFLIGHT)
    await burst.burst()
    shed = Counter((failed.status, failed.code) for failed in burst.failed)
    assert set(shed) == {(503, "overloaded")}, [failed.body for failed in burst.failed][:3]
    assert all(int(failed.headers["retry-after"]) >= 1 for failed in burst.failed)
    assert len(burst.answered) >= MAX_INFLIGHT
    house.drained(burst)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/programs/judge/predict", {"inputs": {"claim": "x"}}),
    ],
)
def test_deadline(house: House, path: str, body: object) -> None:
    """A request that takes too long ends in our words, not in Serve's. Lost: that request."""
    house.simulator.always(Fault.HANG)
    headers = {"authorization": f"Bearer {house.key}", "x-dspex-timeout-ms": "600"}
    began = time.monotonic()
    answer = httpx.post(f"{house.url}{path}", json=body, headers=headers, timeout=30)
    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_body_that_never_ends(house: House) -> None:
    """Its time is limited too, though our code has not begun with it. Lost: that request."""
    content = json.dumps(CHAT).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n"
        f"x-dspex-timeout-ms: 600\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content[:-5])
    await writer.drain()
    async with asyncio.timeout(10):
        said = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", said.lower())
        assert length is not None
        body = await reader.readexactly(int(length[1]))
    writer.close()
    assert said.startswith(b"HTTP/1.1 504")
    assert json.loads(body)["error"]["code"] == "deadline_exceeded"
