"""Models, assignments, splits, executions, keys and the audit trail: the control plane's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from dspex_ray.access.model import ApiKey, AuditEvent, MintedKey, NewApiKey
from dspex_ray.client.aio.connection import AsyncConnection
from dspex_ray.client.bodies import Ask, if_match, params, path, payload, query
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.models.model import (
    CostEstimate,
    CostQuestion,
    HealthCheck,
    Model,
    ModelSpec,
    ModelStatus,
    ModelUpdate,
    PriceRevision,
    Provider,
)
from dspex_ray.routing.model import AssignmentUpdate, NewAssignment, ProgramModel
from dspex_ray.serving.model import Applied, NewSplit, Split, SplitApplied
from dspex_ray.traces.model import (
    Execution,
    ExecutionQuery,
    FeedbackEntry,
    NewFeedback,
    UsageQuery,
    UsageRow,
)

_MODELS = "/api/v1/models"
_MODEL = "/api/v1/models/{name}"
_SPLIT = "/api/v1/programs/{program}/split"
_EXECUTIONS = "/api/v1/executions"


class AsyncModels:
    """The model registry."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def register(self, spec: ModelSpec, *, test_on_creation: bool = True) -> Model:
        """Register a model; it is checked by a real call soon after, unless told not to."""
        given = params(test_on_creation=test_on_creation)
        ask = Ask("POST", _MODELS, content=payload(spec), params=given)
        return await self._connection.call(Model, ask)

    async def get(self, name: str) -> Model:
        return await self._connection.call(
            Model, Ask("GET", path(_MODEL, name=name), repeatable=True)
        )

    async def list(
        self,
        *,
        status: ModelStatus | None = None,
        provider: Provider | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Model]:
        given = params(status=status, provider=provider, cursor=cursor, limit=limit)
        ask = Ask("GET", _MODELS, params=given, repeatable=True)
        return await self._connection.call(Page[Model], ask)

    async def iterate(
        self, *, status: ModelStatus | None = None, provider: Provider | None = None
    ) -> AsyncIterator[Model]:
        """Every model, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list(status=status, provider=provider, cursor=cursor, limit=MAX_LIMIT)
            for model in page.items:
                yield model
            cursor = page.next_cursor
            if cursor is None:
                return

    async def update(self, name: str, change: ModelUpdate, *, revision: int | None = None) -> Model:
        """Change the given fields; with `revision`, only if the model still has it (Stale)."""
        ask = Ask(
            "PATCH", path(_MODEL, name=name), content=payload(change), headers=if_match(revision)
        )
        return await self._connection.call(Model, ask)

    async def delete(self, name: str) -> None:
        await self._connection.send(Ask("DELETE", path(_MODEL, name=name)))

    async def approve(self, name: str) -> Model:
        """testing -> available; runs a health check unless one passed within 24 h."""
        return await self._connection.call(Model, Ask("POST", path(_MODEL + "/approve", name=name)))

    async def deprecate(self, name: str) -> Model:
        return await self._connection.call(
            Model, Ask("POST", path(_MODEL + "/deprecate", name=name))
        )

    async def retest(self, name: str) -> Model:
        return await self._connection.call(Model, Ask("POST", path(_MODEL + "/retest", name=name)))

    async def check(self, name: str) -> HealthCheck:
        """Call the provider now, and record what came."""
        return await self._connection.call(
            HealthCheck, Ask("POST", path(_MODEL + "/check", name=name))
        )

    async def checks(self, name: str, *, limit: int = DEFAULT_LIMIT) -> Page[HealthCheck]:
        ask = Ask(
            "GET",
            path(_MODEL + "/checks", name=name),
            params=params(limit=limit),
            repeatable=True,
        )
        return await self._connection.call(Page[HealthCheck], ask)

    async def prices(self, name: str) -> Page[PriceRevision]:
        """The model's price book, newest first."""
        ask = Ask("GET", path(_MODEL + "/prices", name=name), repeatable=True)
        return await self._connection.call(Page[PriceRevision], ask)

    async def estimate_cost(self, name: str, text: str) -> CostEstimate:
        """What it would cost to send `text`; the cost is None when the price is unknown."""
        ask = Ask(
            "POST",
            path(_MODEL + "/estimate-cost", name=name),
            content=payload(CostQuestion(text=text)),
            repeatable=True,
        )
        return await self._connection.call(CostEstimate, ask)


class AsyncAssignments:
    """Which models serve a program, one of its predictors, or a route."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def assign(self, program: str, new: NewAssignment) -> ProgramModel:
        where = path("/api/v1/programs/{program}/assignments", program=program)
        return await self._connection.call(ProgramModel, Ask("POST", where, content=payload(new)))

    async def list(self, program: str) -> Page[ProgramModel]:
        """In order of priority, with the counters of each."""
        where = path("/api/v1/programs/{program}/assignments", program=program)
        return await self._connection.call(Page[ProgramModel], Ask("GET", where, repeatable=True))

    async def assign_to_route(self, route: str, new: NewAssignment) -> ProgramModel:
        """Let a model serve `route/<name>` of chat completions; the route is made by this."""
        where = path("/api/v1/routes/{route}/assignments", route=route)
        return await self._connection.call(ProgramModel, Ask("POST", where, content=payload(new)))

    async def list_for_route(self, route: str) -> Page[ProgramModel]:
        where = path("/api/v1/routes/{route}/assignments", route=route)
        return await self._connection.call(Page[ProgramModel], Ask("GET", where, repeatable=True))

    async def routes(self) -> Page[str]:
        """The names of all routes."""
        return await self._connection.call(Page[str], Ask("GET", "/api/v1/routes", repeatable=True))

    async def update(
        self, assignment_id: UUID, change: AssignmentUpdate, *, revision: int | None = None
    ) -> ProgramModel:
        """Change the given fields; with `revision`, only if the row still has it (Stale)."""
        ask = Ask(
            "PATCH",
            path("/api/v1/assignments/{assignment_id}", assignment_id=assignment_id),
            content=payload(change),
            headers=if_match(revision),
        )
        return await self._connection.call(ProgramModel, ask)

    async def remove(self, assignment_id: UUID) -> None:
        where = path("/api/v1/assignments/{assignment_id}", assignment_id=assignment_id)
        await self._connection.send(Ask("DELETE", where))


class AsyncSplits:
    """How a program's traffic is divided among its versions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, program: str) -> Split:
        """Raises NotFound when there is none: the label `production` decides."""
        ask = Ask("GET", path(_SPLIT, program=program), repeatable=True)
        return await self._connection.call(Split, ask)

    async def put(self, program: str, new: NewSplit, *, epoch: int | None = None) -> SplitApplied:
        """Set the weights; with `epoch`, only if the split still has it (Stale). The answer says
        how many replicas have applied them."""
        ask = Ask(
            "PUT", path(_SPLIT, program=program), content=payload(new), headers=if_match(epoch)
        )
        return await self._connection.call(SplitApplied, ask)

    async def remove(self, program: str) -> Applied:
        """The label `production` decides again."""
        return await self._connection.call(Applied, Ask("DELETE", path(_SPLIT, program=program)))


class AsyncExecutions:
    """What has run: executions, usage, feedback."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, wanted: ExecutionQuery | None = None) -> Page[Execution]:
        """Newest first, without LM calls and content."""
        ask = Ask("GET", _EXECUTIONS, params=query(wanted), repeatable=True)
        return await self._connection.call(Page[Execution], ask)

    async def iterate(self, wanted: ExecutionQuery | None = None) -> AsyncIterator[Execution]:
        """Every execution from the query's cursor on, in pages of its limit."""
        wanted = wanted or ExecutionQuery(limit=MAX_LIMIT)
        while True:
            page = await self.list(wanted)
            for execution in page.items:
                yield execution
            if page.next_cursor is None:
                return
            wanted = wanted.model_copy(update={"cursor": page.next_cursor})

    async def get(self, execution_id: UUID) -> Execution:
        """With its LM calls and, where the program captures it, content."""
        where = path(_EXECUTIONS + "/{execution_id}", execution_id=execution_id)
        return await self._connection.call(Execution, Ask("GET", where, repeatable=True))

    async def usage(self, wanted: UsageQuery | None = None) -> Page[UsageRow]:
        """Calls, tokens, cost, success and latency, by program and model unless told otherwise."""
        ask = Ask("GET", "/api/v1/usage", params=query(wanted), repeatable=True)
        return await self._connection.call(Page[UsageRow], ask)

    async def feedback(self, execution_id: UUID, given: NewFeedback) -> FeedbackEntry:
        where = path(_EXECUTIONS + "/{execution_id}/feedback", execution_id=execution_id)
        return await self._connection.call(
            FeedbackEntry, Ask("POST", where, content=payload(given))
        )

    async def list_feedback(
        self, execution_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[FeedbackEntry]:
        """What was said of an execution, newest first."""
        ask = Ask(
            "GET",
            path(_EXECUTIONS + "/{execution_id}/feedback", execution_id=execution_id),
            params=params(cursor=cursor, limit=limit),
            repeatable=True,
        )
        return await self._connection.call(Page[FeedbackEntry], ask)


class AsyncKeys:
    """API keys; needs a key with the scope `admin`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, new: NewApiKey) -> MintedKey:
        """The secret is in this answer and nowhere else."""
        return await self._connection.call(
            MintedKey, Ask("POST", "/api/v1/keys", content=payload(new))
        )

    async def list(self) -> Page[ApiKey]:
        ask = Ask("GET", "/api/v1/keys", repeatable=True)
        return await self._connection.call(Page[ApiKey], ask)

    async def revoke(self, key: str) -> ApiKey:
        """By prefix or name: it stops working within a second."""
        return await self._connection.call(
            ApiKey, Ask("POST", path("/api/v1/keys/{key}/revoke", key=key))
        )


class AsyncAudit:
    """Who changed what; needs a key with the scope `admin`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self, *, kind: str | None = None, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[AuditEvent]:
        """Newest first; `kind` is that of the resource: "model", "program", ..."""
        given = params(kind=kind, cursor=cursor, limit=limit)
        ask = Ask("GET", "/api/v1/audit", params=given, repeatable=True)
        return await self._connection.call(Page[AuditEvent], ask)

    async def iterate(self, *, kind: str | None = None) -> AsyncIterator[AuditEvent]:
        """Every event, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list(kind=kind, cursor=cursor, limit=MAX_LIMIT)
            for event in page.items:
                yield event
            cursor = page.next_cursor
            if cursor is None:
                return
