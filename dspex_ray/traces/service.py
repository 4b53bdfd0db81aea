"""Use cases of executions, usage and feedback; each is one transaction."""

from __future__ import annotations

from datetime import date, timedelta
from typing import NamedTuple

from dspex_ray.core.actor import Actor, Scope
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.core.ids import ExecutionId, NewId, created_at, new_id
from dspex_ray.core.page import Page
from dspex_ray.db.engine import Database
from dspex_ray.db.partitions import drop_partitions, ensure_partitions
from dspex_ray.traces import store, usage
from dspex_ray.traces.model import (
    Execution,
    ExecutionQuery,
    Feedback,
    FeedbackEntry,
    UsageQuery,
    UsageRow,
)
from dspex_ray.traces.rules import record_day, require_storable, whole_minutes

_DAYS_AHEAD = 3
_DRAIN_TIME = timedelta(minutes=1)


class TraceService:
    """What ran, what it used, and what people said of it; `actor` says in which project."""

    def __init__(self, database: Database, clock: Clock, ids: NewId = new_id) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    async def list(self, actor: Actor, query: ExecutionQuery) -> Page[Execution]:
        async with self._database.read() as conn:
            return await store.list_executions(conn, actor.project_id, query)

    async def get(self, actor: Actor, execution_id: ExecutionId) -> Execution:
        """With its LM calls; with its content when it was captured and the actor may read.

        Raises NotFound.
        """
        day = self._day(execution_id)
        content = actor.may(Scope.READ)
        async with self._database.read() as conn:
            return await store.get_execution(
                conn, actor.project_id, execution_id, day, content=content
            )

    async def usage(self, actor: Actor, query: UsageQuery) -> Page[UsageRow]:
        """One page holds all groups."""
        since, until = whole_minutes(query.since, query.until, self._clock.now())
        async with self._database.read() as conn:
            rows = await usage.usage(conn, actor.project_id, query.group_by, since, until)
        return Page(items=rows)

    async def add_feedback(self, actor: Actor, given: Feedback) -> FeedbackEntry:
        """Raises NotFound when the execution is not there, or not yet; Invalid when nothing is
        said."""
        _check_feedback(given)
        day = self._day(given.execution_id)
        entry = FeedbackEntry(
            **given.model_dump(), id=self._ids(), actor=actor.name, at=self._clock.now()
        )
        async with self._database.write() as conn:
            if not await store.execution_exists(conn, actor.project_id, given.execution_id, day):
                raise self._not_there(given.execution_id)
            await store.insert_feedback(conn, actor.project_id, entry)
            await store.audit_feedback(conn, actor, entry)
        return entry

    async def list_feedback(
        self, actor: Actor, execution_id: ExecutionId, *, cursor: str | None, limit: int
    ) -> Page[FeedbackEntry]:
        """Newest first. Raises NotFound when the execution is not there."""
        day = self._day(execution_id)
        async with self._database.read() as conn:
            if not await store.execution_exists(conn, actor.project_id, execution_id, day):
                raise self._not_there(execution_id)
            return await store.list_feedback(
                conn, actor.project_id, execution_id, cursor=cursor, limit=limit
            )

    def _day(self, execution_id: ExecutionId) -> date:
        try:
            return record_day(execution_id, self._clock.now().date())
        except Invalid:
            raise NotFound(
                f"no execution {execution_id} in this project: not the id of one", kind="execution"
            ) from None

    def _not_there(self, execution_id: ExecutionId) -> NotFound:
        message = f"no execution {execution_id} in this project"
        if self._clock.now() - created_at(execution_id) < _DRAIN_TIME:
            message += ", or not yet: records come from the spool a moment after the answer"
        return NotFound(message, kind="execution")


class Kept(NamedTuple):
    """What a retention run did."""

    dropped_partitions: list[str]
    expired_contents: int


async def keep_retention(database: Database, clock: Clock, records_days: int) -> Kept:
    """Drop days older than `records_days`, delete content past its own retention, make the
    partitions of the days to come. Safe to repeat and to run twice at once."""
    today = clock.now().date()
    async with database.write() as conn:
        await ensure_partitions(
            conn, {today + timedelta(days=ahead) for ahead in range(_DAYS_AHEAD + 1)}
        )
    async with database.write() as conn:
        dropped = await drop_partitions(conn, before=today - timedelta(days=records_days))
    async with database.write() as conn:
        expired = await store.delete_expired_contents(conn, today)
    return Kept(dropped, expired)


def _check_feedback(given: Feedback) -> None:
    if all(value is None for value in (given.score, given.label, given.comment, given.expected)):
        raise Invalid(
            "feedback says nothing: give score, label, comment or expected",
            field="score",
            rule="at least one",
        )
    for field in ("label", "comment", "expected"):
        require_storable(getattr(given, field), field)
