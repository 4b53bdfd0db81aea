# Generated from ../aio/control.py by scripts/generate_sync_client.py: edit that one.
"""Models, assignments, splits, executions, keys and the audit trail: the control plane's."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from dspex_ray.access.model import ApiKey, AuditEvent, MintedKey, NewApiKey
from dspex_ray.client.bodies import Ask, if_match, params, path, payload, query
from dspex_ray.client.sync.connection import Connection
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


class Models:
    """The model registry."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def register(self, spec: ModelSpec, *, test_on_creation: bool = True) -> Model:
        """Register a model; it is checked by a real call soon after, unless told not to."""
        given = params(test_on_creation=test_on_creation)
        ask = Ask("POST", _MODELS, content=payload(spec), params=given)
        return self._connection.call(Model, ask)

    def get(self, name: str) -> Model:
        return self._connection.call(Model, Ask("GET", path(_MODEL, name=name), repeatable=True))

    def list(
        self,
        *,
        status: ModelStatus | None = None,
        provider: Provider | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Model]:
        given = params(status=status, provider=provider, cursor=cursor, limit=limit)
        ask = Ask("GET", _MODELS, params=given, repeatable=True)
        return self._connection.call(Page[Model], ask)

    def iterate(
        self, *, status: ModelStatus | None = None, provider: Provider | None = None
    ) -> Iterator[Model]:
        """Every model, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(status=status, provider=provider, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def update(self, name: str, change: ModelUpdate, *, revision: int | None = None) -> Model:
        """Change the given fields; with `revision`, only if the model still has it (Stale)."""
        ask = Ask(
            "PATCH", path(_MODEL, name=name), content=payload(change), headers=if_match(revision)
        )
        return self._connection.call(Model, ask)

    def delete(self, name: str) -> None:
        self._connection.send(Ask("DELETE", path(_MODEL, name=name)))

    def approve(self, name: str) -> Model:
        """testing -> available; runs a health check unless one passed within 24 h."""
        return self._connection.call(Model, Ask("POST", path(_MODEL + "/approve", name=name)))

    def deprecate(self, name: str) -> Model:
        return self._connection.call(Model, Ask("POST", path(_MODEL + "/deprecate", name=name)))

    def retest(self, name: str) -> Model:
        return self._connection.call(Model, Ask("POST", path(_MODEL + "/retest", name=name)))

    def check(self, name: str) -> HealthCheck:
        """Call the provider now, and record what came."""
        return self._connection.call(HealthCheck, Ask("POST", path(_MODEL + "/check", name=name)))

    def checks(self, name: str, *, limit: int = DEFAULT_LIMIT) -> Page[HealthCheck]:
        ask = Ask(
            "GET",
            path(_MODEL + "/checks", name=name),
            params=params(limit=limit),
            repeatable=True,
        )
        return self._connection.call(Page[HealthCheck], ask)

    def prices(self, name: str) -> Page[PriceRevision]:
        """The model's price book, newest first."""
        ask = Ask("GET", path(_MODEL + "/prices", name=name), repeatable=True)
        return self._connection.call(Page[PriceRevision], ask)

    def estimate_cost(self, name: str, text: str) -> CostEstimate:
        """What it would cost to send `text`; the cost is None when the price is unknown."""
        ask = Ask(
            "POST",
            path(_MODEL + "/estimate-cost", name=name),
            content=payload(CostQuestion(text=text)),
            repeatable=True,
        )
        return self._connection.call(CostEstimate, ask)


class Assignments:
    """Which models serve a program, one of its predictors, or a route."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def assign(self, program: str, new: NewAssignment) -> ProgramModel:
        where = path("/api/v1/programs/{program}/assignments", program=program)
        return self._connection.call(ProgramModel, Ask("POST", where, content=payload(new)))

    def list(self, program: str) -> Page[ProgramModel]:
        """In order of priority, with the counters of each."""
        where = path("/api/v1/programs/{program}/assignments", program=program)
        return self._connection.call(Page[ProgramModel], Ask("GET", where, repeatable=True))

    def assign_to_route(self, route: str, new: NewAssignment) -> ProgramModel:
        """Let a model serve `route/<name>` of chat completions; the route is made by this."""
        where = path("/api/v1/routes/{route}/assignments", route=route)
        return self._connection.call(ProgramModel, Ask("POST", where, content=payload(new)))

    def list_for_route(self, route: str) -> Page[ProgramModel]:
        where = path("/api/v1/routes/{route}/assignments", route=route)
        return self._connection.call(Page[ProgramModel], Ask("GET", where, repeatable=True))

    def routes(self) -> Page[str]:
        """The names of all routes."""
        return self._connection.call(Page[str], Ask("GET", "/api/v1/routes", repeatable=True))

    def update(
        self, assignment_id: UUID, change: AssignmentUpdate, *, revision: int | None = None
    ) -> ProgramModel:
        """Change the given fields; with `revision`, only if the row still has it (Stale)."""
        ask = Ask(
            "PATCH",
            path("/api/v1/assignments/{assignment_id}", assignment_id=assignment_id),
            content=payload(change),
            headers=if_match(revision),
        )
        return self._connection.call(ProgramModel, ask)

    def remove(self, assignment_id: UUID) -> None:
        where = path("/api/v1/assignments/{assignment_id}", assignment_id=assignment_id)
        self._connection.send(Ask("DELETE", where))


class Splits:
    """How a program's traffic is divided among its versions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, program: str) -> Split:
        """Raises NotFound when there is none: the label `production` decides."""
        ask = Ask("GET", path(_SPLIT, program=program), repeatable=True)
        return self._connection.call(Split, ask)

    def put(self, program: str, new: NewSplit, *, epoch: int | None = None) -> SplitApplied:
        """Set the weights; with `epoch`, only if the split still has it (Stale). The answer says
        how many replicas have applied them."""
        ask = Ask(
            "PUT", path(_SPLIT, program=program), content=payload(new), headers=if_match(epoch)
        )
        return self._connection.call(SplitApplied, ask)

    def remove(self, program: str) -> Applied:
        """The label `production` decides again."""
        return self._connection.call(Applied, Ask("DELETE", path(_SPLIT, program=program)))


class Executions:
    """What has run: executions, usage, feedback."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, wanted: ExecutionQuery | None = None) -> Page[Execution]:
        """Newest first, without LM calls and content."""
        ask = Ask("GET", _EXECUTIONS, params=query(wanted), repeatable=True)
        return self._connection.call(Page[Execution], ask)

    def iterate(self, wanted: ExecutionQuery | None = None) -> Iterator[Execution]:
        """Every execution from the query's cursor on, in pages of its limit."""
        wanted = wanted or ExecutionQuery(limit=MAX_LIMIT)
        while True:
            page = self.list(wanted)
            yield from page.items
            if page.next_cursor is None:
                return
            wanted = wanted.model_copy(update={"cursor": page.next_cursor})

    def get(self, execution_id: UUID) -> Execution:
        """With its LM calls and, where the program captures it, content."""
        where = path(_EXECUTIONS + "/{execution_id}", execution_id=execution_id)
        return self._connection.call(Execution, Ask("GET", where, repeatable=True))

    def usage(self, wanted: UsageQuery | None = None) -> Page[UsageRow]:
        """Calls, tokens, cost, success and latency, by program and model unless told otherwise."""
        ask = Ask("GET", "/api/v1/usage", params=query(wanted), repeatable=True)
        return self._connection.call(Page[UsageRow], ask)

    def feedback(self, execution_id: UUID, given: NewFeedback) -> FeedbackEntry:
        where = path(_EXECUTIONS + "/{execution_id}/feedback", execution_id=execution_id)
        return self._connection.call(FeedbackEntry, Ask("POST", where, content=payload(given)))

    def list_feedback(
        self, execution_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[FeedbackEntry]:
        """What was said of an execution, newest first."""
        ask = Ask(
            "GET",
            path(_EXECUTIONS + "/{execution_id}/feedback", execution_id=execution_id),
            params=params(cursor=cursor, limit=limit),
            repeatable=True,
        )
        return self._connection.call(Page[FeedbackEntry], ask)


class Keys:
    """API keys; needs a key with the scope `admin`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, new: NewApiKey) -> MintedKey:
        """The secret is in this answer and nowhere else."""
        return self._connection.call(MintedKey, Ask("POST", "/api/v1/keys", content=payload(new)))

    def list(self) -> Page[ApiKey]:
        ask = Ask("GET", "/api/v1/keys", repeatable=True)
        return self._connection.call(Page[ApiKey], ask)

    def revoke(self, key: str) -> ApiKey:
        """By prefix or name: it stops working within a second."""
        return self._connection.call(
            ApiKey, Ask("POST", path("/api/v1/keys/{key}/revoke", key=key))
        )


class Audit:
    """Who changed what; needs a key with the scope `admin`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, *, kind: str | None = None, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[AuditEvent]:
        """Newest first; `kind` is that of the resource: "model", "program", ..."""
        given = params(kind=kind, cursor=cursor, limit=limit)
        ask = Ask("GET", "/api/v1/audit", params=given, repeatable=True)
        return self._connection.call(Page[AuditEvent], ask)

    def iterate(self, *, kind: str | None = None) -> Iterator[AuditEvent]:
        """Every event, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(kind=kind, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return
