"""A driver over a fake model, and the resources that runs need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx

from dspex_ray.bootstrap import Services
from dspex_ray.core.actor import SYSTEM
from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import OptimizationId
from dspex_ray.evaluation.work import Target
from dspex_ray.models.model import Model
from dspex_ray.optimization.attempt import Process
from dspex_ray.optimization.driver import RunDriver
from dspex_ray.optimization.endings import RunEndings
from dspex_ray.optimization.run_rules import JobState
from dspex_ray.optimization.runs import OptimizationRun
from dspex_ray.optimization.service import registry
from dspex_ray.routing.model import LmCall
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from tests.integration.conftest import a_model, ok
from tests.unit.optimization.parts import TOPICS, examples

PATH = "/v1/optimizations"
SIZES = {"train": 12, "dev": 8}
PRICE = {"prompt_usd_per_token": "0.000001", "completion_usd_per_token": "0.000002"}


class FakeModels:
    """`optimization.attempt.Models`: one fake engine behind all LMs, priced as registered."""

    def __init__(self, engine: FakeEngine, held: dict[str, Model]) -> None:
        self.engine, self._held = engine, held
        self.embedded: list[list[str]] = []
        self.pinned: list[dict[str, str]] = []

    def program_lm(self, target: Target, pins: Mapping[str, str]) -> Any:
        self.pinned.append(dict(pins))
        return fake_lm(self.engine)

    def model_lm(self, target: Target, model: str) -> Any:
        return fake_lm(self.engine)

    def of(self, target: Target, model: str | None = None) -> Sequence[Model]:
        return [self._held["m" if model is None else model]]

    async def embed(self, target: Target, model: str, texts: list[str]) -> list[list[float]]:
        self.embedded.append(texts)
        return [[float(len(text)), 1.0] for text in texts]

    def sink(self, run: OptimizationRun, target: Target) -> FakeModels:
        return self

    def lm_call(self, call: LmCall) -> None:
        raise AssertionError("a fake engine goes by no router")


class FakeJobs:
    """In place of Ray's job API."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, UUID]] = []
        self.states: dict[str, JobState] = {}
        self.away = False

    async def submit(self, name: str, run_id: OptimizationId) -> None:
        if self.away:
            raise Unavailable("no dashboard")
        if name not in self.states:
            self.submitted.append((name, run_id))
            self.states[name] = JobState.ALIVE

    async def state(self, name: str) -> JobState:
        return self.states.get(name, JobState.DEAD)


async def resources(api: httpx.AsyncClient) -> None:
    """A program `p` on a model `m`, and a dataset `d` of 24 rows."""
    for name in ("m", "other"):
        ok(await api.post("/v1/models", json=a_model(name, price=PRICE)), 201)
        ok(await api.post(f"/v1/models/{name}/approve"))
    module = {
        "type": "predict",
        "signature": f"text -> topic: Literal[{', '.join(map(repr, TOPICS))}]",
        "instructions": "Name the topic.",
        "config": {"temperature": 0},
    }
    source = {"adapter": "minimal", "module": module}
    body = {"name": "p", "source": source, "labels": ["production"]}
    ok(await api.post("/v1/programs", json=body), 201)
    ok(await api.post("/v1/programs/p/assignments", json={"model": "m"}), 201)
    rows = "\n".join(json.dumps(example.values) for example in examples(24))
    ok(
        await api.post(
            "/v1/datasets/d/versions",
            params={"create": True},
            content=rows,
            headers={"content-type": "application/x-ndjson"},
        ),
        201,
    )


async def driver(
    services: Services, engine: FakeEngine, models: FakeModels | None = None, **parts: Any
) -> RunDriver:
    """`parts` are further ones of the process: a pool and its door."""
    return RunDriver(
        Process(
            database=services.database,
            clock=services.clock,
            models=models or await fake_models(services, engine),
            registry=registry(),
            threads=ThreadPoolExecutor(4),
            allowed_packages=("dspy",),
            **parts,
        ),
        endings(services),
    )


async def fake_models(services: Services, engine: FakeEngine) -> FakeModels:
    held = {name: await services.models.get(SYSTEM, name) for name in ("m", "other")}
    return FakeModels(engine, held)


def endings(services: Services) -> RunEndings:
    return RunEndings(services.database, services.clock, services.programs)


def asked(**fields: Any) -> dict[str, Any]:
    return {
        "program": "p@1",
        "dataset": "d",
        "examples": {"sizes": SIZES, "seed": 1},
        "optimizer": "DspexSearch",
        "parameters": {"num_candidates": 6, "max_demos": 4},
        "metric": {"metric": "exact_match"},
    } | fields


async def create(api: httpx.AsyncClient, **fields: Any) -> OptimizationRun:
    return OptimizationRun.model_validate(ok(await api.post(PATH, json=asked(**fields)), 202))


async def get(api: httpx.AsyncClient, run: OptimizationRun) -> OptimizationRun:
    return OptimizationRun.model_validate(ok(await api.get(f"{PATH}/{run.id}")))
