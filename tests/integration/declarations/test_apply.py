"""A configuration file: planned whole, applied once, changing nothing when nothing changed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import insert

from dspex_ray.bootstrap import Services
from dspex_ray.db.configuration import current
from dspex_ray.db.tables import gateway_replicas
from dspex_ray.models.model import ErrorClass
from tests.integration.conftest import PUBLIC_URL, ScriptedProvider, a_model, a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration

FILE = f"""
managed_by: team-a
models:
  - name: fast
    provider: openai_compatible
    model_name: any
    base_url: {PUBLIC_URL}/
    cost_per_token: "0.000001"
    api_key_ref: {{env: PROVIDER_KEY}}
    approved: true
  - name: slow
    provider: local
    model_name: any
    price: {{prompt_usd_per_token: "0.1"}}
    config: {{defaults: {{max_tokens: 5}}}}
programs:
  - name: news
    description: Topic of an article
    capture: {{mode: full, retention_days: 3}}
    source:
      module: {{type: predict, signature: "text -> topic"}}
    labels: [production, staging]
    assignments:
      - model: fast
      - {{model: slow, routing_strategy: fallback, conditions: {{input_size_max: 10}}}}
      - {{model: slow, predictor: main}}
    split:
      arms: [{{version: 1, weight_bp: 10000}}]
  - name: bare
routes:
  - name: chat
    assignments: [{{model: fast, weight: 5}}]
"""
STEPS = [
    ("model", "fast"),
    ("model", "fast"),  # its approval
    ("model", "slow"),
    ("program", "news"),
    ("assignment", "program/news:fast"),
    ("assignment", "program/news:slow"),
    ("assignment", "program/news:slow/main"),
    ("split", "news"),
    ("program", "bare"),
    ("assignment", "route/chat:fast"),
]


async def applied(api: httpx.AsyncClient, text: Any, *, dry_run: bool = False) -> list[Any]:
    """(change, kind, name, fields) of every step of the plan."""
    content = text if isinstance(text, str) else yaml.safe_dump(text)
    url = "/v1/apply" + ("?dry_run=true" if dry_run else "")
    plan = ok(await api.post(url, content=content.encode()))
    assert plan["applied"] is not dry_run
    return [(step["change"], step["kind"], step["name"], step["fields"]) for step in plan["steps"]]


def with_change(**change: Any) -> dict[str, Any]:
    return {**yaml.safe_load(FILE), **change}


async def test_a_dry_run_says_everything_and_writes_nothing(
    api: httpx.AsyncClient, rows: Rows, provider: ScriptedProvider
) -> None:
    before = await rows.dump()
    steps = await applied(api, FILE, dry_run=True)
    assert [(kind, name) for _, kind, name, _ in steps] == STEPS
    assert {change for change, *_ in steps} == {"create", "update"}
    assert await rows.dump() == before
    assert provider.asked == []


async def test_applying_does_what_the_dry_run_said(api: httpx.AsyncClient) -> None:
    planned = await applied(api, FILE, dry_run=True)
    assert await applied(api, FILE) == planned
    fast = ok(await api.get("/v1/models/fast"))
    assert (fast["status"], fast["managed_by"]) == ("available", "team-a")
    news = ok(await api.get("/v1/programs/news"))
    assert news["labels"] == {"production": 1, "staging": 1}
    assert (news["managed_by"], news["capture"]["mode"]) == ("team-a", "full")
    rows = ok(await api.get("/v1/programs/news/assignments"))["items"]
    assert [(row["model_name"], row["predictor"], row["managed_by"]) for row in rows] == [
        ("fast", None, "team-a"),
        ("slow", None, "team-a"),
        ("slow", "main", "team-a"),
    ]
    assert ok(await api.get("/v1/programs/news/split"))["arms"][0]["weight_bp"] == 10_000
    assert ok(await api.get("/v1/routes"))["items"] == ["chat"]


async def test_applying_twice_changes_nothing(api: httpx.AsyncClient, rows: Rows) -> None:
    await applied(api, FILE)
    before = await rows.dump()
    steps = await applied(api, FILE)
    assert {change for change, *_ in steps} == {"unchanged"}
    assert await rows.dump() == before
    assert await applied(api, yaml.safe_load(FILE)) == steps  # the same file as JSON would be


async def test_it_waits_for_the_replicas_once_and_says_how_many(
    api: httpx.AsyncClient, services: Services
) -> None:
    await a_replica(services, "fresh", applied=1_000)
    await a_replica(services, "behind", applied=1)
    plan = ok(await api.post("/v1/apply", content=FILE.encode()))
    assert (plan["replicas"]["applied"], plan["replicas"]["total"]) == (1, 2)
    async with services.database.read() as conn:
        assert plan["replicas"]["version"] == await current(conn)
    for query in ("", "?dry_run=true"):  # nothing changes: nothing to wait for
        assert ok(await api.post(f"/v1/apply{query}", content=FILE.encode()))["replicas"] is None


async def a_replica(services: Services, name: str, *, applied: int) -> None:
    values = {"id": name, "node": "n", "pid": 1, "applied_version": applied}
    async with services.database.write() as conn:
        await conn.execute(insert(gateway_replicas).values(**values, seen_at=services.clock.now()))


async def test_a_declared_cache(api: httpx.AsyncClient) -> None:
    file = with_change()
    file["models"][0]["cache_ttl_s"] = 3600
    await applied(api, file)
    assert ok(await api.get("/v1/models/fast"))["cache_ttl_s"] == 3600
    file["models"][0]["cache_ttl_s"] = None
    changed = [step for step in await applied(api, file) if step[0] != "unchanged"]
    assert changed == [("update", "model", "fast", {"cache_ttl_s": None})]
    assert ok(await api.get("/v1/models/fast"))["cache_ttl_s"] is None


async def test_a_program_may_pin_a_model_of_the_same_file(api: httpx.AsyncClient) -> None:
    file = {
        "models": [a_model("mine")],
        "programs": [{"name": "p", "source": QA | {"models": {"": "mine"}}}],
    }
    steps = await applied(api, file, dry_run=True)
    assert await applied(api, file) == steps
    artifact = ok(await api.get("/v1/programs/p/versions/1"))["artifact"]
    assert artifact["models"] == {"": "mine"}
    assert {change for change, *_ in await applied(api, file)} == {"unchanged"}


async def test_only_what_differs_is_changed(api: httpx.AsyncClient) -> None:
    await applied(api, FILE)
    file = with_change()
    file["models"][0] |= {"cost_per_token": "0.5", "max_tokens": 7}
    file["programs"][0]["source"]["module"]["instructions"] = "Name the topic."
    file["programs"][0]["assignments"][0]["priority"] = 4
    file["programs"][0]["split"] = {
        "arms": [{"version": 1, "weight_bp": 9_000}, {"version": 2, "weight_bp": 1_000}]
    }
    changed = [step for step in await applied(api, file) if step[0] != "unchanged"]
    assert [(change, kind, name) for change, kind, name, _ in changed] == [
        ("update", "model", "fast"),
        ("create", "version", "news@2"),
        ("update", "assignment", "program/news:fast"),
        ("update", "split", "news"),
    ]
    assert changed[0][3] == {"cost_per_token": "0.5", "max_tokens": 7}
    assert changed[1][3] == {"labels": ["production", "staging"]}
    assert changed[2][3] == {"priority": 4}
    assert {step[0] for step in await applied(api, file)} == {"unchanged"}


async def test_what_the_file_leaves_out_is_left_alone(api: httpx.AsyncClient) -> None:
    await applied(api, FILE)
    ok(await api.patch("/v1/models/slow", json={"max_tokens": 64}))
    ok(await api.patch("/v1/programs/bare", json={"description": "by hand"}))
    ok(await api.post("/v1/models", json=a_model("mine")), 201)
    assert {step[0] for step in await applied(api, FILE)} == {"unchanged"}
    assert ok(await api.get("/v1/models/slow"))["max_tokens"] == 64
    assert ok(await api.get("/v1/programs/bare"))["description"] == "by hand"


async def test_what_exists_already_is_taken_over_when_it_changes(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/models", json=a_model("slow", provider="local", base_url=None)), 201)
    ok(await api.post("/v1/routes/chat/assignments", json={"model": "slow"}), 201)
    file = {
        "managed_by": "team-b",
        "models": [{"name": "slow", "provider": "local", "model_name": "other"}],
        "routes": [{"name": "chat", "assignments": [{"model": "slow", "weight": 9}]}],
    }
    assert [(change, kind) for change, kind, *_ in await applied(api, file)] == [
        ("update", "model"),
        ("update", "assignment"),
    ]
    assert ok(await api.get("/v1/models/slow"))["managed_by"] == "team-b"
    (row,) = ok(await api.get("/v1/routes/chat/assignments"))["items"]
    assert (row["managed_by"], row["weight"]) == ("team-b", 9)


SPLIT = {"arms": [{"version": 2, "weight_bp": 10_000}]}
QA: dict[str, Any] = {"module": {"type": "predict", "signature": "q -> a"}}
BAD_FILES: list[tuple[Any, int, str | None, str | None]] = [
    ("a: [", 422, "file", "yaml"),
    ("[" * 100_000, 422, "file", "depth"),
    ("when: 2001-99-99", 422, "file", "yaml"),
    ("", 422, "file", "mapping"),
    ("- a", 422, "file", "mapping"),
    ("!!python/object/apply:os.system ['true']", 422, "file", "yaml"),
    ("a: &x [1]\nb: *x", 422, "file", "no aliases"),
    ('managed_by: "a\\0b"', 422, "file.managed_by", "no null bytes"),
    ({"colour": "red"}, 422, "colour", "extra_forbidden"),
    ({"models": [a_model(colour="red")]}, 422, "models.0.colour", "extra_forbidden"),
    ({"models": [a_model(api_key="sk-1")]}, 422, "models.m.api_key", "no secrets in files"),
    ({"models": [a_model(base_url="http://127.0.0.1")]}, 422, "base_url", "public address"),
    ({"models": [a_model(config={"x": 1})]}, 422, "config.x", "known key"),
    ({"programs": [{"name": "p", "labels": ["x"]}]}, 422, "programs.0", "value_error"),
    ({"programs": [{"name": "p", "source": {}}]}, 422, "module", "exactly one"),
    ({"programs": [{"name": "p", "split": SPLIT}]}, 422, "programs.p.split.arms", "known version"),
    (
        {"programs": [{"name": "p", "source": QA, "split": SPLIT}]},
        422,
        "programs.p.split.arms",
        "known version",
    ),
    ({"routes": [{"name": "r", "assignments": []}]}, 422, "routes.0.assignments", "too_short"),
    ({"routes": [{"name": "r", "assignments": [{"model": "none"}]}]}, 404, None, None),
    ({"programs": [{"name": "p", "source": QA | {"models": {"": "none"}}}]}, 404, None, None),
    (
        {"programs": [{"name": "p", "source": QA | {"models": {"x": "m"}}}]},
        422,
        "models.x",
        "known predictor",
    ),
    (
        {
            "programs": [
                {"name": "p", "source": QA, "assignments": [{"model": "m", "predictor": "x"}]}
            ]
        },
        422,
        "predictor",
        "known predictor",
    ),
    (
        {"programs": [{"name": "p", "assignments": [{"model": "m", "predictor": "x"}]}]},
        404,
        None,
        None,
    ),
]


async def test_a_bad_file_is_refused_before_anything_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    """Each begins with a model that is good, except where the file cannot be read at all."""
    ok(await api.post("/v1/models", json=a_model("there")), 201)
    before = await rows.dump()
    for file, status, field, rule in BAD_FILES:
        content = file
        if isinstance(file, dict):
            more = [a_model("good")] if "models" in file else [a_model("m")]
            models = file.get("models", [])
            # The good one last, so that places in the list are as the case says.
            content = yaml.safe_dump({**file, "models": [*models, *more]}, sort_keys=False)
        for url in ("/v1/apply", "/v1/apply?dry_run=true"):
            answer = await api.post(url, content=content.encode())
            refused(answer, status, field=field, rule=rule)
    refused(await api.post("/v1/apply", content=b"\xff"), 422, field="file", rule="utf-8")
    assert await rows.dump() == before


async def test_the_provider_of_a_model_is_not_changed(api: httpx.AsyncClient, rows: Rows) -> None:
    await applied(api, FILE)
    before = await rows.dump()
    file = {"models": [{"name": "slow", "provider": "openai", "model_name": "any"}]}
    answer = await api.post("/v1/apply", content=yaml.safe_dump(file).encode())
    refused(answer, 422, field="models.slow.provider", rule="immutable")
    assert await rows.dump() == before


async def test_applying_again_after_a_failure_finishes_what_is_left(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    provider.fail(1, ErrorClass.TIMEOUT)
    refused(await api.post("/v1/apply", content=FILE.encode()), 409)
    steps = await applied(api, FILE)
    assert steps[0][:3] == ("unchanged", "model", "fast")
    assert steps[1] == ("update", "model", "fast", {"status": "available"})
    assert {step[0] for step in await applied(api, FILE)} == {"unchanged"}


async def test_a_program_that_was_made_by_hand_gets_its_version(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/programs", json=a_program("p", "q -> b")), 201)
    file = {"programs": [{"name": "p", "source": QA, "labels": ["production"]}]}
    steps = await applied(api, file)
    assert [step[:3] for step in steps] == [
        ("unchanged", "program", "p"),
        ("create", "version", "p@2"),
    ]
    assert ok(await api.get("/v1/programs/p"))["labels"] == {"production": 2}
    ok(await api.put("/v1/programs/p/labels/production", json={"version": 1}))
    assert (await applied(api, file))[1] == (
        "update",
        "version",
        "p@2",
        {"labels": ["production"]},
    )
