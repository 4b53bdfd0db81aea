"""After traffic of every kind: no secret anywhere, and content only where `capture` puts it.

Looked at: every file below the home (logs, Ray's session, traces, spool), the database server's
log, every table, the dashboard's API, the metrics, the processes' command lines. Lost: nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from dspex_ray.models.model import ModelUpdate
from dspex_ray.testing.provider_simulator import Answer, Fault, Prompt
from tests.e2e.platform import command_line, obliging
from tests.faults.house import House, model
from tests.faults.load import Request
from tests.faults.test_killed import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# A model of its own: its breaker has no other test's requests to refuse.
DECLARED = """
managed_by: faults
models: {leaky}
programs:
  - name: silent
    capture: {{mode: none}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: leaky}}]
  - name: masked
    capture: {{mode: redacted}}
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: leaky}}]
  - name: kept
    capture: {{mode: full}}
    source: {{signature: "claim -> verdict", module: {{type: chain_of_thought}}}}
    labels: [production]
    assignments: [{{model: leaky}}]
"""
# What holds a secret by design, mode 0600.
OWN_FILES = {"dev-key", "ray-token", "secret.key"}
DASHBOARD = (
    "/api/serve/applications/",
    "/api/jobs/",
    "/api/v0/actors?detail=1&limit=1000",
    "/api/v0/tasks?detail=1&limit=1000",
    "/api/v0/workers?detail=1&limit=1000",
    "/api/v0/runtime_envs?detail=1&limit=1000",
    "/api/v0/nodes?detail=1",
    "/nodes?view=summary",
    "/logical/actors",
    "/api/cluster_status",
)


def echo(prompt: Prompt) -> Answer:
    """Answers with what was said, so that outputs hold the planted content too."""
    said = re.findall(r"\[\[ ## claim ## \]\]\n(.*?)\n", prompt.text)
    answer = obliging(prompt)
    return answer.replace("yes", said[-1]) if said and isinstance(answer, str) else answer


async def traffic(house: House, tokens: dict[str, str]) -> Counter[int]:
    """Answers, streams and refusals of each program and of the model itself; their statuses."""
    headers = {"authorization": f"Bearer {house.key}"}
    async with httpx.AsyncClient(base_url=house.url, headers=headers, timeout=60) as client:
        answers = await asyncio.gather(
            *(
                client.post(path, json=body)
                for name, token in tokens.items()
                for path, body in asks(name, token)
            )
        )
    return Counter(answer.status_code for answer in answers)


def asks(name: str, token: str) -> list[Request]:
    chat = {"model": name, "messages": [{"role": "user", "content": f"say {token}"}]}
    found: list[Request] = [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
    ]
    if name.startswith("program/"):
        path = f"/v1/programs/{name.removeprefix('program/')}"
        inputs = {"inputs": {"claim": token}}
        found += [
            (f"{path}/predict", inputs),
            (f"{path}/predict", {**inputs, "stream": True}),
            (f"{path}/predict", {"inputs": {"claim": token, token: token}}),  # refused
            (f"{path}/batch", {"items": [{"claim": token}, {"claim": {"not": token}}]}),
        ]
    return found


async def test_nothing_shows(house: House) -> None:
    house.apply(DECLARED.format(leaky=model("leaky", house.simulator.url)))
    with house.client() as client:
        key = SecretStr(house.planted.provider_key)
        client.models.update("leaky", ModelUpdate(api_key=key))
    mark = secrets.token_hex(6)
    email = f"person.{mark}@example.com"
    tokens = {
        "leaky": f"planted-direct-{mark}",
        "program/silent": f"planted-silent-{mark}",
        "program/masked": f"planted-masked-{mark} {email}",
        "program/kept": f"planted-kept-{mark}",
    }
    house.simulator.answer = echo
    faults = (None, Fault.UNAUTHORIZED, Fault.MALFORMED, Fault.CUT, Fault.SSE_ERROR)
    statuses: Counter[int] = Counter()
    for fault in faults:
        house.simulator.always(fault)
        statuses += await traffic(house, tokens)
    assert {200, 400, 502} <= set(statuses)
    house.simulator.always(None)
    house.simulator.answer = obliging
    content = [f"planted-{kind}-{mark}" for kind in ("direct", "silent", "masked", "kept")]
    await until(house.is_drained, 30)
    await asyncio.sleep(2.0)  # buffered logs and figures

    shown = dict(house_texts(house))
    assert len(shown) > 50
    hidden = [
        house.planted.provider_key,
        house.planted.provider_key_env,
        house.planted.database_password,
        house.planted.secret_key,
        house.key,
    ]
    assert where(shown, [*hidden, *content, email]) == {}
    tables = table_texts(house)
    assert where(tables, [*hidden, email]) == {}
    found = where(tables, content)
    assert set(found) == {"execution_contents"}
    [[kept]] = house.rows(
        "SELECT string_agg(c::text, ' ') FROM execution_contents c "
        "JOIN executions e ON e.day = c.day AND e.id = c.execution_id WHERE e.program = 'kept'"
    )
    assert content[3] in kept
    assert set(found["execution_contents"]) == {content[2], content[3]}


def where(texts: dict[str, str], needles: Iterable[str]) -> dict[str, list[str]]:
    """The places that hold any of the needles, and which."""
    wanted = list(needles)
    found = {
        place: [needle for needle in wanted if needle in text] for place, text in texts.items()
    }
    return {place: needles for place, needles in found.items() if needles}


def house_texts(house: House) -> Iterable[tuple[str, str]]:
    """Everything but the tables, by place."""
    for path in [*house.home.rglob("*"), house.server.folder / "log"]:
        if path.is_file() and not path.is_symlink() and path.name not in OWN_FILES:
            yield str(path.relative_to(house.home.parent)), text_of(path)
    token = house.state.ray_token_file.read_text()
    with httpx.Client(
        base_url=house.state.dashboard_url, headers={"authorization": f"Bearer {token}"}, timeout=30
    ) as client:
        for page in DASHBOARD:
            yield page, client.get(page).raise_for_status().text
    for process in house.processes():
        with suppress(psutil.NoSuchProcess):
            yield f"command line of {process.pid}", " ".join(command_line(process))
            for connection in process.net_connections("tcp"):
                if connection.status == "LISTEN" and connection.laddr:
                    yield from figures_of(connection.laddr.port)


def text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""  # gone meanwhile


def figures_of(port: int) -> Iterable[tuple[str, str]]:
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
        if answer.text.startswith("# HELP"):
            yield f"metrics of port {port}", answer.text


def table_texts(house: House) -> dict[str, str]:
    """Each table's rows as text, the queue's among them."""
    names = house.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' "
        "AND table_type = 'BASE TABLE' AND table_name !~ '_p[0-9]{8}$'"
    )
    found = {}
    with psycopg.connect(house.database_url) as conn:
        for [name] in names:
            query = sql.SQL("SELECT coalesce(string_agg(t::text, ' '), '') FROM {} t")
            row = conn.execute(query.format(sql.Identifier(name))).fetchone()
            found[name] = "" if row is None else str(row[0])
    return found
