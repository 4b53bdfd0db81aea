"""The space of a version through HTTP and the SDK: declared, sampled, checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dspex_ray.client import AsyncDspex
from dspex_ray.core.actor import Scope
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.programs.model import NewProgram, NewVersion, ProgramSource
from dspex_ray.variables.declare import variable
from dspex_ray.variables.model import Fault, SamplingMethod
from tests.integration.conftest import a_program, ok, refused

pytestmark = pytest.mark.integration
SPACE = "/v1/programs/p/versions/1/space"
MODULE = {"type": "predict", "signature": "question -> answer", "config": {"temperature": 0.5}}
VARIABLES: dict[str, Any] = {
    "temperature": {"float": [0, 1]},
    "adapter": ["chat", "json"],
    "max_tokens": {"integer": [10, 12]},
}
COOL = {
    "name": "json-is-cool",
    "rule": {
        "kind": "implies",
        "when": {"variable": "adapter", "op": "==", "value": "json"},
        "then": {"variable": "temperature", "op": "<=", "value": 0.5},
    },
}
SOURCE = {"module": MODULE, "variables": VARIABLES, "constraints": [COOL]}


@pytest.fixture
async def dspex(app: FastAPI, keys: dict[Scope, str]) -> AsyncIterator[AsyncDspex]:
    transport = httpx.ASGITransport(app=app, root_path="/api")
    async with AsyncDspex("http://dspex", keys[Scope.ADMIN], transport=transport) as client:
        yield client


async def test_a_declared_space_is_shown_with_figures_and_what_holds_now(
    api: httpx.AsyncClient,
) -> None:
    ok(await api.post("/v1/programs", json={"name": "p", "source": SOURCE}), 201)
    found = ok(await api.get(SPACE))
    assert found["declared"] is True
    assert found["current"] == {"adapter": "chat", "temperature": 0.5}
    assert found["figures"] == {
        "variable_count": 3,
        "dimensions": 3,
        "continuous_dimensions": 1,
        "discrete_size": 6,
        "size": None,
        "size_is": "infinite",
        "complexity_score": 5.0,
        "optimization_difficulty": "easy",
    }
    exported = ok(await api.get("/v1/programs/p/versions/1/export"))
    assert exported["artifact"]["space"] == found["space"]
    again = {"name": "q", "source": {"module": MODULE}}
    ok(await api.post("/v1/programs", json=again), 201)
    ok(await api.post("/v1/programs/q/versions", json=exported), 201)
    assert ok(await api.get("/v1/programs/q/versions/2/space"))["hash"] == found["hash"]


async def test_a_version_that_declares_nothing_has_the_default_space(
    api: httpx.AsyncClient,
) -> None:
    ok(await api.post("/v1/programs", json=a_program("p")), 201)
    found = ok(await api.get(SPACE))
    assert found["declared"] is False
    assert set(found["space"]["variables"]) == {"adapter", "max_tokens", "module", "temperature"}
    assert "space" not in ok(await api.get("/v1/programs/p/versions/1"))["artifact"]


async def test_samples_and_verdicts(api: httpx.AsyncClient) -> None:
    ok(await api.post("/v1/programs", json={"name": "p", "source": SOURCE}), 201)
    for method in SamplingMethod:
        ask = {"method": method, "n": 40, "seed": 7, "levels": 3}
        drawn = ok(await api.post(f"{SPACE}/sample", json=ask))
        assert drawn == ok(await api.post(f"{SPACE}/sample", json=ask))
        count = 3 * (3 + 2) if method is SamplingMethod.GRID else 40
        assert len(drawn["configurations"]) == count
        for configuration in drawn["configurations"]:
            asked = {"configuration": configuration}
            verdict = ok(await api.post(f"{SPACE}/validate", json=asked))
            assert verdict == {"valid": True, "faults": []}
    wrong = {"configuration": {"adapter": "json", "temperature": 0.9, "max_tokens": 9, "k": 1}}
    verdict = ok(await api.post(f"{SPACE}/validate", json=wrong))
    assert [(fault["field"], fault["rule"]) for fault in verdict["faults"]] == [
        ("k", "unknown"),
        ("max_tokens", "integer"),
        ("temperature", "json-is-cool"),
    ]


async def test_what_is_refused_is_named(api: httpx.AsyncClient) -> None:
    bad = {**SOURCE, "variables": {"temperature": {"float": [0, 3]}}, "constraints": []}
    answer = await api.post("/v1/programs", json={"name": "p", "source": bad})
    problem = refused(answer, 422)
    assert problem["details"]["field"] == "temperature"
    never = {"name": "never", "rule": {"variable": "max_tokens", "op": ">", "value": 99}}
    only = {"max_tokens": {"integer": [10, 12]}}
    source = {"module": MODULE, "variables": only, "constraints": [never]}
    ok(await api.post("/v1/programs", json={"name": "p", "source": source}), 201)
    problem = refused(await api.post(f"{SPACE}/sample", json={}), 422)
    assert problem["details"]["rule"] == "satisfiable"
    assert "(most broken: never)" in problem["detail"]
    problem = refused(await api.post(f"{SPACE}/sample", json={"n": 0}), 422)
    assert problem["details"]["field"] == "n"
    nested = {"configuration": {"max_tokens": [1]}}
    refused(await api.post(f"{SPACE}/validate", json=nested), 422)
    refused(await api.get("/v1/programs/p/versions/9/space"), 404)


async def test_the_sdk_declares_samples_and_checks(dspex: AsyncDspex) -> None:
    await dspex.programs.create(NewProgram(name="p"))
    source = ProgramSource(module=MODULE, variables={"temperature": variable("float", 0, 1)})
    version = await dspex.programs.add_version("p", NewVersion(source=source))
    space = await dspex.programs.space("p", version.number)
    assert space.declared
    assert space.space.variables == {"temperature": variable("float", 0, 1)}
    drawn = await dspex.programs.sample_space("p", 1, method=SamplingMethod.SOBOL, n=4, seed=1)
    assert len(drawn.configurations) == 4
    verdict = await dspex.programs.validate_configuration("p", 1, {"temperature": 2})
    assert verdict.faults == (Fault(field="temperature", rule="float", message="must be 0 to 1"),)
    with pytest.raises(Invalid):
        await dspex.programs.sample_space("p", 1, n=0)
    with pytest.raises(NotFound):
        await dspex.programs.space("gone", 1)
