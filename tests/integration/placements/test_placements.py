"""Placements through HTTP and the reconciler's use cases: what is refused, what each move writes,
what the data plane's snapshot then says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update

from dspex_ray.bootstrap import Services
from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import DEFAULT_PROJECT
from dspex_ray.db.tables import configuration, gateway_replicas
from dspex_ray.placements.model import DedicatedPlace, Placement, PlacementStatus, SeenApplication
from dspex_ray.placements.rules import Act, Action, plan
from dspex_ray.serving.loader import load_snapshot
from dspex_ray.serving.snapshot import Snapshot
from tests.integration.conftest import a_program, ok, refused
from tests.integration.rows import Rows

pytestmark = pytest.mark.integration
PLACED = "/v1/programs/p/versions/2/placement"
SPLIT = "/v1/programs/p/split"
RUNNING = SeenApplication(status="RUNNING", running=1)
NODES = [{"CPU": 2.0}]


@pytest.fixture(autouse=True)
async def versions(api: httpx.AsyncClient) -> None:
    """A program with versions 1, in production, and 2, which nobody asks for."""
    ok(await api.post("/v1/programs", json=a_program(labels=["production"])), 201)
    source = {"module": {"type": "predict", "signature": "question -> reply"}}
    ok(await api.post("/v1/programs/p/versions", json={"source": source}), 201)


async def snapshot(services: Services) -> Snapshot:
    return await load_snapshot(services.database, services.keyring, services.clock)


async def place(services: Services, number: int = 2) -> DedicatedPlace | None:
    return (await snapshot(services)).served(DEFAULT_PROJECT, "p").versions[number].placement


async def gateway(services: Services, *, behind: int = 0, kind: str = "gateway") -> None:
    """A replica, alive, that has the newest configuration, or one this much older."""
    async with services.database.write() as conn:
        version = (await conn.execute(select(configuration.c.version))).scalar_one()
        await conn.execute(
            insert(gateway_replicas).values(
                id=kind,
                kind=kind,
                node="n",
                pid=1,
                applied_version=version - behind,
                seen_at=services.clock.now(),
            )
        )


async def step(services: Services, seen: dict[str, SeenApplication]) -> list[tuple[str, str]]:
    """One turn of the reconciler, Serve showing these applications."""
    service = services.placements
    async with service.turn() as mine:
        assert mine
        survey = await service.survey()
        actions = plan(
            survey.placements,
            seen,
            NODES,
            services.clock.now(),
            start_timeout_s=120,
            applied=survey.applied,
        )
        for action in actions:
            await service.note(action)
    return [(action.act.value, action.application) for action in actions]


async def get(api: httpx.AsyncClient, where: str = PLACED) -> Placement:
    return Placement.model_validate(ok(await api.get(where)))


async def started(api: httpx.AsyncClient, services: Services, **spec: Any) -> str:
    """Version 2 placed and ready: the name of its application."""
    app = ok(await api.put(PLACED, json=spec), 202)["application"]
    await step(services, {})
    await step(services, {app: RUNNING})
    assert (await get(api)).status is PlacementStatus.READY
    return str(app)


async def test_a_version_is_placed_and_takes_its_traffic_when_it_is_ready(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    refused(await api.get(PLACED), 404)
    assert ok(await api.get("/v1/programs/p/placements"))["items"] == []
    answer = await api.put(PLACED, json={"min_replicas": 0, "warm_up": [{"question": "mark-1"}]})
    placed = ok(answer, 202)
    app = placed["application"]
    assert answer.headers["etag"] == '"1"'
    assert (placed["status"], placed["serving"]) == ("pending", None)
    assert await place(services) == DedicatedPlace(
        application=None,
        reason="its dedicated placement is 'pending': its replicas have not started yet",
    )
    assert await step(services, {}) == [("create", app), ("start", app)]
    assert await step(services, {app: SeenApplication(status="DEPLOYING")}) == []
    assert await step(services, {app: RUNNING}) == [("succeed", app)]
    assert await step(services, {app: RUNNING}) == []
    assert await place(services) == DedicatedPlace(application=app)
    assert (await get(api)).serving == app
    told = [row for row in await rows.of("audit_events") if row["action"].startswith("placement.")]
    assert [row["action"] for row in told] == [
        "placement.put",
        "placement.start",
        "placement.succeed",
    ]
    assert {row["resource_id"] for row in told} == {"p@2"}
    assert "mark-1" not in str(told)  # inputs are content
    moved = await rows.of("state_events")
    assert [(r["event"], r["to_state"]) for r in moved if r["resource_kind"] == "placement"] == [
        ("start", "starting"),
        ("succeed", "ready"),
    ]


async def test_one_that_cannot_start_gets_no_traffic_and_says_why(
    api: httpx.AsyncClient, services: Services
) -> None:
    app = ok(await api.put(PLACED, json={"resources": {"num_cpus": 1000}}), 202)["application"]
    await step(services, {})
    assert await step(services, {app: SeenApplication(status="DEPLOYING")}) == [("fail", app)]
    why = "no node has 1000 CPU (the most that one has: 2)"
    assert (await get(api)).reason == why
    half = {"arms": [{"version": 1, "weight_bp": 5_000}, {"version": 2, "weight_bp": 5_000}]}
    said = f"version 2 of 'p' cannot take traffic: its dedicated placement is 'failed': {why}"
    assert refused(await api.put(SPLIT, json=half), 409)["detail"] == said
    label = await api.put("/v1/programs/p/labels/production", json={"version": 2})
    assert refused(label, 409)["detail"] == said
    none = {"arms": [{"version": 1, "weight_bp": 10_000}, {"version": 2, "weight_bp": 0}]}
    ok(await api.put(SPLIT, json=none))
    held = await snapshot(services)
    with pytest.raises(Unavailable) as gone:
        held.pick(DEFAULT_PROJECT, "p@2", "unit", services.clock.now())
    assert gone.value.message == (
        f"version 2 of 'p' cannot be served: its dedicated placement is 'failed': {why}"
    )


async def test_a_version_that_was_ready_and_is_not_gives_its_range_away(
    api: httpx.AsyncClient, services: Services
) -> None:
    app = await started(api, services)
    whole = {"arms": [{"version": 1, "weight_bp": 0}, {"version": 2, "weight_bp": 10_000}]}
    ok(await api.put(SPLIT, json=whole))

    async def picked() -> int:
        held = await snapshot(services)
        return held.pick(DEFAULT_PROJECT, "p", "unit", services.clock.now()).version.number

    assert await picked() == 2
    dead = SeenApplication(status="UNHEALTHY", message="a replica died")
    assert await step(services, {app: dead}) == [("fail", app)]
    assert await picked() == 1
    less = {"arms": [{"version": 1, "weight_bp": 9_000}, {"version": 2, "weight_bp": 1_000}]}
    ok(await api.put(SPLIT, json=less))  # taking traffic away is always possible
    assert await step(services, {app: RUNNING}) == [("succeed", app)]
    assert (await place(services)) == DedicatedPlace(application=app)


async def test_a_version_in_use_is_shared_until_its_own_replicas_are_ready(
    api: httpx.AsyncClient, services: Services
) -> None:
    one = "/v1/programs/p/versions/1/placement"
    app = ok(await api.put(one, json={"resources": {"num_cpus": 1000}}), 202)["application"]
    await step(services, {})
    await step(services, {app: SeenApplication(status="DEPLOYING")})
    assert (await get(api, one)).status is PlacementStatus.FAILED
    assert await place(services, 1) is None
    changed = ok(await api.put(one, json={}), 202)["application"]
    await step(services, {})
    assert await place(services, 1) is None
    await step(services, {changed: RUNNING})
    assert await place(services, 1) == DedicatedPlace(application=changed)


async def test_a_change_goes_over_when_the_new_one_is_ready_and_then_ends_the_old_one(
    api: httpx.AsyncClient, services: Services
) -> None:
    old = await started(api, services)
    new = ok(await api.put(PLACED, json={"max_replicas": 2}), 202)["application"]
    assert new != old
    assert await step(services, {old: RUNNING}) == [("create", new), ("start", new)]
    assert await place(services) == DedicatedPlace(application=old)
    assert await step(services, {old: RUNNING, new: RUNNING}) == [("succeed", new)]
    assert await place(services) == DedicatedPlace(application=new)
    await gateway(services, behind=1)
    await gateway(services, kind="dedicated")
    assert await step(services, {old: RUNNING, new: RUNNING}) == []
    async with services.database.write() as conn:
        version = (await conn.execute(select(configuration.c.version))).scalar_one()
        await conn.execute(update(gateway_replicas).values(applied_version=version))
    assert await step(services, {old: RUNNING, new: RUNNING}) == [("delete", old)]


async def test_removing_drains_and_then_forgets(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    app = await started(api, services)
    assert ok(await api.delete(PLACED), 202)["status"] == "draining"
    assert ok(await api.delete(PLACED), 202)["status"] == "draining"
    assert await place(services) is None
    assert await step(services, {app: RUNNING}) == []  # no gateway has told that it knows
    await gateway(services)
    assert await step(services, {app: RUNNING}) == [("delete", app)]
    assert await step(services, {app: SeenApplication(status="DELETING")}) == []
    assert await step(services, {}) == [("forget", app)]
    refused(await api.get(PLACED), 404)
    assert await rows.of("placements") == []
    refused(await api.delete(PLACED), 404)


async def test_one_that_drains_can_be_placed_again(
    api: httpx.AsyncClient, services: Services
) -> None:
    app = await started(api, services)
    ok(await api.delete(PLACED), 202)
    assert ok(await api.put(PLACED, json={}), 202)["application"] == app
    assert await step(services, {app: SeenApplication(status="DELETING")}) == []
    assert await step(services, {}) == [("create", app), ("start", app)]


async def test_a_lost_cluster_is_rebuilt(api: httpx.AsyncClient, services: Services) -> None:
    app = await started(api, services)
    assert await step(services, {}) == [("lose", app)]
    assert await place(services) == DedicatedPlace(
        application=None,
        reason="its dedicated placement is 'starting': its application was lost",
    )
    assert await step(services, {}) == [("create", app)]
    assert await step(services, {app: RUNNING}) == [("succeed", app)]
    assert await place(services) == DedicatedPlace(application=app)


async def test_an_archived_program_loses_its_placements(
    api: httpx.AsyncClient, services: Services
) -> None:
    app = await started(api, services)
    ok(await api.post("/v1/programs/p/archive"))
    await gateway(services, behind=-1)
    assert await step(services, {app: RUNNING}) == [("delete", app)]
    assert await step(services, {}) == [("forget", app)]
    refused(await api.put(PLACED, json={}), 409)


async def test_an_equal_one_changes_nothing_and_a_failed_one_is_tried_at_once(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    app = await started(api, services)
    before = await rows.dump()
    ok(await api.put(PLACED, json={}), 202)
    assert await rows.dump() == before
    await step(services, {app: SeenApplication(status="DEPLOY_FAILED")})
    assert ok(await api.put(PLACED, json={}), 202)["status"] == "pending"


async def test_what_is_noted_late_is_not_written(
    api: httpx.AsyncClient, services: Services, rows: Rows
) -> None:
    """A placement that was changed after it was looked at is left to the next plan."""
    ok(await api.put(PLACED, json={}), 202)
    seen = await get(api)
    ok(await api.put(PLACED, json={"max_replicas": 2}), 202)
    before = await rows.dump()
    await services.placements.note(Action(Act.START, seen.application, seen))
    assert await rows.dump() == before


async def test_one_reconciles_at_a_time(services: Services) -> None:
    async with services.placements.turn() as mine, services.placements.turn() as other:
        assert (mine, other) == (True, False)
    async with services.placements.turn() as again:
        assert again


async def test_what_is_not_accepted_is_refused_and_nothing_is_written(
    api: httpx.AsyncClient, rows: Rows
) -> None:
    cases: list[tuple[Any, str, str]] = [
        ({"min_replicas": 2}, "body", "value_error"),
        ({"replicas": 2}, "replicas", "extra_forbidden"),
        ({"runtime_env": {"conda": "x"}}, "runtime_env.conda", "extra_forbidden"),
        ({"runtime_env": {"pip": ["numpy==2"]}}, "runtime_env.pip", "allowed package"),
        (
            {"runtime_env": {"env_vars": {"API_KEY": "x"}}},
            "runtime_env.env_vars.API_KEY",
            "no secrets",
        ),
        ({"warm_up": [{"question": "q"}, {"query": "q"}]}, "warm_up.1.query", "unknown"),
    ]
    before = await rows.dump()
    for body, field, rule in cases:
        refused(await api.put(PLACED, json=body), 422, field=field, rule=rule)
    refused(await api.put("/v1/programs/p/versions/9/placement", json={}), 404)
    refused(await api.put("/v1/programs/none/versions/1/placement", json={}), 404)
    refused(await api.put(PLACED, json={}, headers={"if-match": '"1"'}), 412)
    assert await rows.dump() == before


async def test_a_placed_version_is_held_however_old_it_is(
    api: httpx.AsyncClient, services: Services
) -> None:
    await started(api, services)
    for number in range(25):
        source = {"module": {"type": "predict", "signature": f"question -> reply{number}"}}
        ok(await api.post("/v1/programs/p/versions", json={"source": source}), 201)
    assert await place(services) is not None


async def test_limits_are_shared_by_all_but_keys_by_those_that_take_requests(
    services: Services,
) -> None:
    await gateway(services)
    await gateway(services, kind="dedicated")
    held = await snapshot(services)
    assert (held.replicas, held.gateways) == (2, 1)


async def test_apply_places_the_version_of_its_source(
    api: httpx.AsyncClient, services: Services
) -> None:
    file = """
programs:
  - name: declared
    source: {signature: "question -> answer", module: {type: predict}}
    labels: [production]
    placement: {min_replicas: 0, resources: {num_cpus: 0.2}}
"""
    headers = {"content-type": "application/yaml"}
    plan_of = await api.post("/v1/apply", content=file, headers=headers)
    assert [(s["change"], s["kind"], s["name"]) for s in ok(plan_of)["steps"]] == [
        ("create", "program", "declared"),
        ("create", "placement", "declared@1"),
    ]
    placed = await get(api, "/v1/programs/declared/versions/1/placement")
    assert (placed.managed_by, placed.takes_over) == ("apply", True)
    again = ok(await api.post("/v1/apply", content=file, headers=headers))["steps"]
    assert {step["change"] for step in again} == {"unchanged"}
    bad = file.replace("{min_replicas: 0,", "{runtime_env: {pip: [x==1]},")
    refused(
        await api.post("/v1/apply", content=bad, headers=headers),
        422,
        field="runtime_env.pip",
        rule="allowed package",
    )
