"""Every call of the SDK: what it asks for, and the noun that it gives."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest

from dspex_ray.access.model import NewApiKey
from dspex_ray.client import AsyncDspex, Dspex
from dspex_ray.core.actor import Scope
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.datasets.model import (
    DatasetType,
    DatasetUpdate,
    ExampleQuery,
    ExecutionFilter,
    NewDataset,
    NewDatasetSplit,
    SignatureCheck,
)
from dspex_ray.evaluation.model import EvaluationQuery, MetricSpec, NewEvaluation
from dspex_ray.models.model import ModelSpec, ModelStatus, ModelUpdate, Provider
from dspex_ray.optimization.runs import NewOptimization, RunQuery
from dspex_ray.placements.model import NewPlacement
from dspex_ray.programs.model import (
    NewProgram,
    NewVersion,
    ProgramSource,
    ProgramStatus,
    ProgramUpdate,
)
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, RoutingStrategy
from dspex_ray.serving.model import Arm, NewSplit, Readiness
from dspex_ray.traces.model import ExecutionQuery, NewFeedback, UsageGroup, UsageQuery
from dspex_ray.variables.model import SamplingMethod
from tests.unit.client import wire

EXECUTION = UUID(wire.ID)
SPEC = ModelSpec(name="m", provider=Provider.LOCAL, model_name="smol")
SOURCE = ProgramSource(module={"type": "predict", "signature": "question -> answer"})
SPLIT = NewSplit(arms=(Arm(version=1, weight_bp=9000), Arm(version=2, weight_bp=1000)))
APPLIED = {"version": 4, "applied": 2, "total": 2}
EVALUATION = NewEvaluation(
    program="p@1", dataset="qa", metrics=(MetricSpec(metric="f1", field="answer"),)
)
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
CHECK = {"model_id": wire.ID, "at": wire.NOW, "ok": True, "latency_ms": 3.0}
PRICE = {"version": 1, "source": "operator", "effective_at": wire.NOW}
MOVE = {"label": "p", "from_version": None, "to_version": 1, "actor": "a", "at": wire.NOW}
FEEDBACK = {"execution_id": wire.ID, "score": 1.0}
SPACE = {
    "program": "news",
    "version": 2,
    "declared": False,
    "hash": "ab",
    "space": {},
    "figures": {
        "variable_count": 0,
        "dimensions": 0,
        "continuous_dimensions": 0,
        "discrete_size": 1,
        "size": 1,
        "size_is": "exact",
        "complexity_score": 0.0,
        "optimization_difficulty": "easy",
    },
    "current": {},
}
EMPTY = wire.page()
SEARCH = NewOptimization.model_validate(wire.SEARCH)


class Case(NamedTuple):
    call: Callable[[Any], Any]
    asked: str  #: method, path and query
    reply: httpx.Response
    body: Any = None
    headers: dict[str, str] = {}


CASES = {
    "models.register": Case(
        lambda c: c.models.register(SPEC, test_on_creation=False),
        "POST /api/v1/models?test_on_creation=false",
        wire.ok(wire.model(), 201),
        {"name": "m", "provider": "local", "model_name": "smol"},
    ),
    "models.get": Case(lambda c: c.models.get("m"), "GET /api/v1/models/m", wire.ok(wire.model())),
    "models.list": Case(
        lambda c: c.models.list(status=ModelStatus.AVAILABLE, cursor="c", limit=3),
        "GET /api/v1/models?status=available&cursor=c&limit=3",
        wire.page(wire.model()),
    ),
    "models.update": Case(
        lambda c: c.models.update("m", ModelUpdate(max_tokens=5), revision=3),
        "PATCH /api/v1/models/m",
        wire.ok(wire.model()),
        {"max_tokens": 5},
        {"if-match": '"3"'},
    ),
    "models.delete": Case(
        lambda c: c.models.delete("m"), "DELETE /api/v1/models/m", httpx.Response(204)
    ),
    "models.approve": Case(
        lambda c: c.models.approve("m"), "POST /api/v1/models/m/approve", wire.ok(wire.model())
    ),
    "models.deprecate": Case(
        lambda c: c.models.deprecate("m"), "POST /api/v1/models/m/deprecate", wire.ok(wire.model())
    ),
    "models.retest": Case(
        lambda c: c.models.retest("m"), "POST /api/v1/models/m/retest", wire.ok(wire.model())
    ),
    "models.check": Case(
        lambda c: c.models.check("m"), "POST /api/v1/models/m/check", wire.ok(CHECK)
    ),
    "models.checks": Case(
        lambda c: c.models.checks("m", limit=2),
        "GET /api/v1/models/m/checks?limit=2",
        wire.page(CHECK),
    ),
    "models.prices": Case(
        lambda c: c.models.prices("m"), "GET /api/v1/models/m/prices", wire.page(PRICE)
    ),
    "models.estimate_cost": Case(
        lambda c: c.models.estimate_cost("m", "hello"),
        "POST /api/v1/models/m/estimate-cost",
        wire.ok(
            {"estimated_tokens": 1, "estimated_cost": None, "tokenizer": "gpt2", "exact": False}
        ),
        {"text": "hello"},
    ),
    "programs.create": Case(
        lambda c: c.programs.create(NewProgram(name="news", source=SOURCE, labels=("p",))),
        "POST /api/v1/programs",
        wire.ok(wire.program(), 201),
        {
            "name": "news",
            "source": {"module": {"type": "predict", "signature": "question -> answer"}},
            "labels": ["p"],
        },
    ),
    "programs.get": Case(
        lambda c: c.programs.get("news"), "GET /api/v1/programs/news", wire.ok(wire.program())
    ),
    "programs.list": Case(
        lambda c: c.programs.list(status=ProgramStatus.READY),
        "GET /api/v1/programs?status=ready&limit=50",
        EMPTY,
    ),
    "programs.update": Case(
        lambda c: c.programs.update("news", ProgramUpdate(description="d")),
        "PATCH /api/v1/programs/news",
        wire.ok(wire.program()),
        {"description": "d"},
    ),
    "programs.archive": Case(
        lambda c: c.programs.archive("news"),
        "POST /api/v1/programs/news/archive",
        wire.ok(wire.program()),
    ),
    "programs.add_version": Case(
        lambda c: c.programs.add_version("news", NewVersion(artifact={"kind": "m"}, hash="ab")),
        "POST /api/v1/programs/news/versions",
        wire.ok(wire.version(), 201),
        {"artifact": {"kind": "m"}, "hash": "ab"},
    ),
    "programs.versions": Case(
        lambda c: c.programs.versions("news"),
        "GET /api/v1/programs/news/versions?limit=50",
        wire.page(wire.version()),
    ),
    "programs.version": Case(
        lambda c: c.programs.version("news", 2),
        "GET /api/v1/programs/news/versions/2",
        wire.ok(wire.version(2)),
    ),
    "programs.export": Case(
        lambda c: c.programs.export("news", 2),
        "GET /api/v1/programs/news/versions/2/export",
        wire.ok({"hash": "ab", "artifact": {}}),
    ),
    "programs.space": Case(
        lambda c: c.programs.space("news", 2),
        "GET /api/v1/programs/news/versions/2/space",
        wire.ok(SPACE),
    ),
    "programs.sample_space": Case(
        lambda c: c.programs.sample_space("news", 2, method=SamplingMethod.GRID, n=7, seed=3),
        "POST /api/v1/programs/news/versions/2/space/sample",
        wire.ok({"method": "grid", "seed": 3, "configurations": [{"temperature": 0.5}]}),
        {"method": "grid", "n": 7, "seed": 3, "levels": 5},
    ),
    "programs.validate_configuration": Case(
        lambda c: c.programs.validate_configuration("news", 2, {"temperature": 3}),
        "POST /api/v1/programs/news/versions/2/space/validate",
        wire.ok({"valid": False, "faults": []}),
        {"configuration": {"temperature": 3}},
    ),
    "programs.label": Case(
        lambda c: c.programs.label("news", "production", 2),
        "PUT /api/v1/programs/news/labels/production",
        wire.ok(wire.program()),
        {"version": 2},
    ),
    "programs.label_moves": Case(
        lambda c: c.programs.label_moves("news", limit=5),
        "GET /api/v1/programs/news/label-moves?limit=5",
        wire.page(MOVE),
    ),
    "programs.predict": Case(
        lambda c: c.programs.predict(
            "news@2", {"text": "x"}, context={"k": 1}, session="u", timeout_s=2, tags={"a": "1"}
        ),
        "POST /v1/programs/news@2/predict",
        wire.ok(wire.prediction(topic="sport")),
        {"inputs": {"text": "x"}, "context": {"k": 1}, "stream": False},
        {"x-dspex-session": "u", "x-dspex-timeout-ms": "2000", "x-dspex-tags": "a=1"},
    ),
    "programs.batch": Case(
        lambda c: c.programs.batch("news", [{"text": "x"}], concurrency=2),
        "POST /v1/programs/news/batch",
        wire.ok(
            {
                "items": [
                    wire.prediction(topic="sport"),
                    {"execution_id": wire.ID, "error": {"code": "invalid", "message": "no"}},
                ],
                "succeeded": 1,
                "failed": 1,
            }
        ),
        {"items": [{"text": "x"}], "context": {}, "concurrency": 2},
    ),
    "programs.feedback": Case(
        lambda c: c.programs.feedback("news", EXECUTION, NewFeedback(score=1)),
        "POST /v1/programs/news/feedback",
        wire.ok({"feedback_id": wire.ID, "status": "accepted"}, 202),
        FEEDBACK,
    ),
    "assignments.assign": Case(
        lambda c: c.assignments.assign(
            "news", NewAssignment(model="smol", routing_strategy=RoutingStrategy.FALLBACK)
        ),
        "POST /api/v1/programs/news/assignments",
        wire.ok(wire.assignment(), 201),
        {"model": "smol", "routing_strategy": "fallback"},
    ),
    "assignments.list": Case(
        lambda c: c.assignments.list("news"),
        "GET /api/v1/programs/news/assignments",
        wire.page(wire.assignment()),
    ),
    "assignments.assign_to_route": Case(
        lambda c: c.assignments.assign_to_route("fast", NewAssignment(model="smol")),
        "POST /api/v1/routes/fast/assignments",
        wire.ok(wire.assignment(), 201),
        {"model": "smol"},
    ),
    "assignments.list_for_route": Case(
        lambda c: c.assignments.list_for_route("fast"),
        "GET /api/v1/routes/fast/assignments",
        EMPTY,
    ),
    "assignments.update": Case(
        lambda c: c.assignments.update(EXECUTION, AssignmentUpdate(weight=3), revision=1),
        f"PATCH /api/v1/assignments/{wire.ID}",
        wire.ok(wire.assignment()),
        {"weight": 3},
        {"if-match": '"1"'},
    ),
    "assignments.routes": Case(
        lambda c: c.assignments.routes(), "GET /api/v1/routes", wire.page("cheap", "fast")
    ),
    "assignments.remove": Case(
        lambda c: c.assignments.remove(EXECUTION),
        f"DELETE /api/v1/assignments/{wire.ID}",
        httpx.Response(204),
    ),
    "splits.get": Case(
        lambda c: c.splits.get("news"),
        "GET /api/v1/programs/news/split",
        wire.ok(wire.split((1, 10000))),
    ),
    "splits.put": Case(
        lambda c: c.splits.put("news", SPLIT, epoch=2),
        "PUT /api/v1/programs/news/split",
        wire.ok({"split": wire.split((1, 9000), (2, 1000)), "applied": APPLIED}),
        {"arms": [{"version": 1, "weight_bp": 9000}, {"version": 2, "weight_bp": 1000}]},
        {"if-match": '"2"'},
    ),
    "splits.remove": Case(
        lambda c: c.splits.remove("news"), "DELETE /api/v1/programs/news/split", wire.ok(APPLIED)
    ),
    "placements.get": Case(
        lambda c: c.placements.get("news", 2),
        "GET /api/v1/programs/news/versions/2/placement",
        wire.ok(wire.placement()),
    ),
    "placements.list": Case(
        lambda c: c.placements.list("news"),
        "GET /api/v1/programs/news/placements",
        wire.page(wire.placement()),
    ),
    "placements.put": Case(
        lambda c: c.placements.put("news", 2, NewPlacement(min_replicas=0), revision=3),
        "PUT /api/v1/programs/news/versions/2/placement",
        wire.ok(wire.placement(status="pending"), 202),
        {"min_replicas": 0},
        {"if-match": '"3"'},
    ),
    "placements.remove": Case(
        lambda c: c.placements.remove("news", 2),
        "DELETE /api/v1/programs/news/versions/2/placement",
        wire.ok(wire.placement(status="draining"), 202),
    ),
    "placements.wait": Case(
        lambda c: c.placements.wait("news", 2),
        "GET /api/v1/programs/news/versions/2/placement",
        wire.ok(wire.placement(status="failed", reason="no node has 9 CPU")),
    ),
    "executions.list": Case(
        lambda c: c.executions.list(ExecutionQuery(program="news", fallback=True, since=SINCE)),
        "GET /api/v1/executions?program=news&since=2026-03-01T00%3A00%3A00Z&fallback=true",
        wire.page(wire.execution()),
    ),
    "executions.get": Case(
        lambda c: c.executions.get(EXECUTION),
        f"GET /api/v1/executions/{wire.ID}",
        wire.ok(wire.execution()),
    ),
    "executions.usage": Case(
        lambda c: c.executions.usage(UsageQuery(group_by=[UsageGroup.DAY, UsageGroup.MODEL])),
        "GET /api/v1/usage?group_by=day&group_by=model",
        EMPTY,
    ),
    "executions.feedback": Case(
        lambda c: c.executions.feedback(EXECUTION, NewFeedback(label="good")),
        f"POST /api/v1/executions/{wire.ID}/feedback",
        wire.ok({**FEEDBACK, "id": wire.ID, "actor": "key:x", "at": wire.NOW}, 201),
        {"label": "good"},
    ),
    "executions.list_feedback": Case(
        lambda c: c.executions.list_feedback(EXECUTION, cursor="c", limit=3),
        f"GET /api/v1/executions/{wire.ID}/feedback?cursor=c&limit=3",
        wire.page({**FEEDBACK, "id": wire.ID, "actor": "key:x", "at": wire.NOW}),
    ),
    "audit.list": Case(
        lambda c: c.audit.list(kind="model"),
        "GET /api/v1/audit?kind=model&limit=50",
        wire.page(wire.audit_event()),
    ),
    "evaluations.create": Case(
        lambda c: c.evaluations.create(EVALUATION),
        "POST /api/v1/evaluations",
        wire.ok(wire.evaluation(), 202),
        {"program": "p@1", "dataset": "qa", "metrics": [{"metric": "f1", "field": "answer"}]},
    ),
    "evaluations.get": Case(
        lambda c: c.evaluations.get(EXECUTION),
        f"GET /api/v1/evaluations/{wire.ID}",
        wire.ok(wire.evaluation()),
    ),
    "evaluations.wait": Case(
        lambda c: c.evaluations.wait(EXECUTION),
        f"GET /api/v1/evaluations/{wire.ID}",
        wire.ok(wire.evaluation()),
    ),
    "evaluations.list": Case(
        lambda c: c.evaluations.list(EvaluationQuery(program="p", limit=3)),
        "GET /api/v1/evaluations?program=p&limit=3",
        wire.page(wire.evaluation()),
    ),
    "evaluations.results": Case(
        lambda c: c.evaluations.results(EXECUTION, failed=True, cursor="c", limit=3),
        f"GET /api/v1/evaluations/{wire.ID}/results?failed=true&cursor=c&limit=3",
        wire.page(wire.example_result()),
    ),
    "evaluations.cancel": Case(
        lambda c: c.evaluations.cancel(EXECUTION),
        f"POST /api/v1/evaluations/{wire.ID}/cancel",
        wire.ok(wire.evaluation(status="cancelled")),
    ),
    "optimizations.optimizers": Case(
        lambda c: c.optimizations.optimizers(),
        "GET /api/v1/optimizers",
        wire.page(wire.optimizer()),
    ),
    "optimizations.optimizer": Case(
        lambda c: c.optimizations.optimizer("MIPRO"),
        "GET /api/v1/optimizers/MIPRO",
        wire.ok(wire.optimizer()),
    ),
    "optimizations.estimate": Case(
        lambda c: c.optimizations.estimate(SEARCH),
        "POST /api/v1/optimizations/estimate",
        wire.ok(wire.ESTIMATE),
        wire.SEARCH,
    ),
    "optimizations.create": Case(
        lambda c: c.optimizations.create(SEARCH),
        "POST /api/v1/optimizations",
        wire.ok(wire.optimization(), 202),
        wire.SEARCH,
    ),
    "optimizations.get": Case(
        lambda c: c.optimizations.get(EXECUTION),
        f"GET /api/v1/optimizations/{wire.ID}",
        wire.ok(wire.optimization()),
    ),
    "optimizations.wait": Case(
        lambda c: c.optimizations.wait(EXECUTION),
        f"GET /api/v1/optimizations/{wire.ID}",
        wire.ok(wire.optimization()),
    ),
    "optimizations.list": Case(
        lambda c: c.optimizations.list(RunQuery(program="p", limit=3)),
        "GET /api/v1/optimizations?program=p&limit=3",
        wire.page(wire.optimization()),
    ),
    "optimizations.trials": Case(
        lambda c: c.optimizations.trials(EXECUTION, cursor="c", limit=3),
        f"GET /api/v1/optimizations/{wire.ID}/trials?cursor=c&limit=3",
        wire.page(wire.trial()),
    ),
    "optimizations.examples": Case(
        lambda c: c.optimizations.examples(EXECUTION, limit=3),
        f"GET /api/v1/optimizations/{wire.ID}/examples?limit=3",
        wire.page({"hash": "cd" * 32, "part": "train"}),
    ),
    "optimizations.front": Case(
        lambda c: c.optimizations.front(EXECUTION),
        f"GET /api/v1/optimizations/{wire.ID}/front",
        wire.ok(wire.front()),
    ),
    "optimizations.importance": Case(
        lambda c: c.optimizations.importance(EXECUTION),
        f"GET /api/v1/optimizations/{wire.ID}/importance",
        wire.ok(wire.importance()),
    ),
    "optimizations.cancel": Case(
        lambda c: c.optimizations.cancel(EXECUTION),
        f"POST /api/v1/optimizations/{wire.ID}/cancel",
        wire.ok(wire.optimization(status="cancelled")),
    ),
    "optimizations.resume": Case(
        lambda c: c.optimizations.resume(EXECUTION),
        f"POST /api/v1/optimizations/{wire.ID}/resume",
        wire.ok(wire.optimization(status="pending"), 202),
    ),
    "keys.create": Case(
        lambda c: c.keys.create(NewApiKey(name="ci", scopes=(Scope.INVOKE,))),
        "POST /api/v1/keys",
        wire.ok({"key": wire.api_key(), "secret": "dspex_0a_x"}, 201),
        {"name": "ci", "scopes": ["invoke"]},
    ),
    "keys.list": Case(lambda c: c.keys.list(), "GET /api/v1/keys", wire.page(wire.api_key())),
    "keys.revoke": Case(
        lambda c: c.keys.revoke("dspex_0a"),
        "POST /api/v1/keys/dspex_0a/revoke",
        wire.ok(wire.api_key(revoked_at=wire.NOW)),
    ),
    "chat.models": Case(
        lambda c: c.chat.models(),
        "GET /v1/models",
        wire.ok({"data": [{"id": "route/cheap", "created": 1, "owned_by": "route"}]}),
    ),
    "chat.complete": Case(
        lambda c: c.chat.complete("smol", [{"role": "user", "content": "hi"}], temperature=0),
        "POST /v1/chat/completions",
        wire.ok(
            {
                "id": "c",
                "created": 1,
                "model": "smol",
                "choices": [{"index": 0, "message": {"content": "ho"}, "finish_reason": "stop"}],
            }
        ),
        {"model": "smol", "messages": [{"role": "user", "content": "hi"}], "temperature": 0},
    ),
    "datasets.create": Case(
        lambda c: c.datasets.create(NewDataset(name="qa", type=DatasetType.TEST)),
        "POST /api/v1/datasets",
        wire.ok(wire.dataset(type="test"), 201),
        {"name": "qa", "type": "test"},
    ),
    "datasets.get": Case(
        lambda c: c.datasets.get("qa"), "GET /api/v1/datasets/qa", wire.ok(wire.dataset())
    ),
    "datasets.list": Case(
        lambda c: c.datasets.list(type=DatasetType.TEST, limit=2),
        "GET /api/v1/datasets?type=test&limit=2",
        wire.page(wire.dataset()),
    ),
    "datasets.update": Case(
        lambda c: c.datasets.update("qa", DatasetUpdate(description="d"), revision=2),
        "PATCH /api/v1/datasets/qa",
        wire.ok(wire.dataset()),
        {"description": "d"},
        {"if-match": '"2"'},
    ),
    "datasets.delete": Case(
        lambda c: c.datasets.delete("qa", revision=3),
        "DELETE /api/v1/datasets/qa",
        httpx.Response(204),
        headers={"if-match": '"3"'},
    ),
    "datasets.upload": Case(
        lambda c: c.datasets.upload("qa", b'{"q": 1}', media_type="application/x-ndjson", file="f"),
        "POST /api/v1/datasets/qa/versions?create=true&file=f",
        wire.ok(wire.dataset_version(), 201),
        {"q": 1},
        {"content-type": "application/x-ndjson"},
    ),
    "datasets.add_rows": Case(
        lambda c: c.datasets.add_rows("qa", [{"q": 1}], create=False, python="pkg.mod:rows"),
        "POST /api/v1/datasets/qa/versions?create=false&python=pkg.mod%3Arows",
        wire.ok(wire.dataset_version(), 201),
        {"q": 1},
        {"content-type": "application/x-ndjson"},
    ),
    "datasets.from_executions": Case(
        lambda c: c.datasets.from_executions("qa", ExecutionFilter(program="news", min_score=0.5)),
        "POST /api/v1/datasets/qa/versions/from-executions?create=true",
        wire.ok(wire.dataset_version(source={"kind": "executions"}), 201),
        {"program": "news", "min_score": 0.5},
    ),
    "datasets.versions": Case(
        lambda c: c.datasets.versions("qa", limit=2),
        "GET /api/v1/datasets/qa/versions?limit=2",
        wire.page(wire.dataset_version(2), wire.dataset_version(1)),
    ),
    "datasets.version": Case(
        lambda c: c.datasets.version("qa", 2),
        "GET /api/v1/datasets/qa/versions/2",
        wire.ok(wire.dataset_version(2)),
    ),
    "datasets.split": Case(
        lambda c: c.datasets.split("qa", 2, NewDatasetSplit(sizes={"train": 6, "dev": 4}, seed=1)),
        "POST /api/v1/datasets/qa/versions/2/split",
        wire.ok(wire.dataset_split()),
        {"sizes": {"train": 6, "dev": 4}, "seed": 1},
    ),
    "datasets.check": Case(
        lambda c: c.datasets.check("qa", 2, SignatureCheck(program="news")),
        "POST /api/v1/datasets/qa/versions/2/check",
        wire.ok(wire.check_report()),
        {"program": "news"},
    ),
    "datasets.examples": Case(
        lambda c: c.datasets.examples("qa", 2, ExampleQuery(sample=5, seed=1)),
        "GET /api/v1/datasets/qa/versions/2/examples?sample=5&seed=1",
        wire.page(wire.example()),
    ),
    "healthz": Case(lambda c: c.healthz(), "GET /healthz", wire.ok({"status": "ok"})),
}


def check(case: Case, platform: wire.Platform, result: Any) -> None:
    url = platform.last.url
    assert f"{platform.last.method} {url.raw_path.decode()}" == case.asked
    assert (json.loads(platform.last.content) if platform.last.content else None) == case.body
    assert platform.last.headers.items() >= case.headers.items()
    if case.reply.content and result is not None:
        # what came over the wire is what the noun says, field by field, defaults beside
        assert _covers(result.model_dump(mode="json", by_alias=True), case.reply.json())


def _covers(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and _covers(whole[name], item) for name, item in part.items()
        )
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_covers, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("name", CASES)
async def test_async(name: str) -> None:
    platform = wire.Platform([CASES[name].reply])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        called: Awaitable[Any] = CASES[name].call(client)
        check(CASES[name], platform, await called)


@pytest.mark.parametrize("name", CASES)
def test_sync(name: str) -> None:
    platform = wire.Platform([CASES[name].reply])
    with Dspex("http://p", "k", transport=platform.transport) as client:
        check(CASES[name], platform, CASES[name].call(client))


def test_no_public_call_is_left_out() -> None:
    client = Dspex("http://p", "k", transport=wire.Platform().transport)
    groups = {name: group for name, group in vars(client).items() if not name.startswith("_")}
    public = {
        f"{name}.{method}"
        for name, group in groups.items()
        for method in dir(group)
        if not method.startswith("_")
    }
    iterated = ("models", "programs", "executions", "audit", "datasets")
    iterators = {f"{name}.iterate" for name in iterated} | {"datasets.iterate_examples"}
    streams = {"programs.stream", "chat.stream", "datasets.upload_file", "datasets.export"}
    evaluations = {"evaluations.events", "evaluations.iterate_results"}
    followed = evaluations | {"optimizations.events", "optimizations.iterate_trials"}
    assert public == {name for name in CASES if "." in name} | iterators | streams | followed
    client.close()


@pytest.mark.parametrize(
    ("group", "make"),
    [
        ("models", wire.model),
        ("programs", wire.program),
        ("executions", wire.execution),
        ("audit", wire.audit_event),
        ("datasets", wire.dataset),
    ],
)
async def test_iterate_follows_the_cursor(group: str, make: Callable[[], Any]) -> None:
    platform = wire.Platform([*wire.pages(make(), make(), make())])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        found = [item async for item in getattr(client, group).iterate()]
    assert len(found) == 3
    assert [request.url.params.get("cursor") for request in platform.asked] == [None, "1", "2"]
    assert {request.url.params["limit"] for request in platform.asked} == {"500"}


async def test_apply_sends_the_text_as_it_is() -> None:
    step = {"change": "create", "kind": "model", "name": "m"}
    platform = wire.Platform([wire.ok({"steps": [step], "applied": False})])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        plan = await client.apply("models: []  # ü\n", dry_run=True)
    assert not plan.applied
    assert str(platform.last.url) == "http://p/api/v1/apply?dry_run=true"
    assert platform.last.content == "models: []  # ü\n".encode()
    assert platform.last.headers["content-type"] == "application/yaml"


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
async def test_readyz_tells_its_state_either_way(status: int, ready: bool) -> None:
    state = {
        "ready": ready,
        "snapshot_version": 3,
        "snapshot_age_s": None,
        "database": "away",
        "inflight": 0,
        "records_lost": 0,
    }
    platform = wire.Platform([wire.ok(state, status)])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        assert await client.readyz() == Readiness.model_validate(state)
    assert len(platform.asked) == 1


async def test_errors_are_the_platforms_own() -> None:
    platform = wire.Platform([wire.problem(404, "not_found", "no model 'x'", name="x")])
    async with AsyncDspex("http://p", "k", transport=platform.transport) as client:
        with pytest.raises(NotFound, match="no model 'x'") as caught:
            await client.models.get("x")
    assert caught.value.details == {"name": "x"}


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"max_retries": -1}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        AsyncDspex("http://p", "k", **options)
    assert [caught.value.field] == list(options)
