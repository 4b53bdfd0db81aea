"""Evaluations: program versions measured on datasets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from uuid import UUID

from dspex_ray.client.aio.connection import AsyncConnection
from dspex_ray.client.bodies import Ask, params, path, payload, query, read
from dspex_ray.core.errors import DeadlineExceeded, Unavailable
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.evaluation.model import (
    Evaluation,
    EvaluationEvent,
    EvaluationQuery,
    ExampleResult,
    NewEvaluation,
)

_ROOT = "/api/v1/evaluations"
_ONE = "/api/v1/evaluations/{id}"
_POLL_S = 0.5


class AsyncEvaluations:
    """What is asked for runs in the background; follow it by `events`, or `wait` for it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, new: NewEvaluation) -> Evaluation:
        """It is `pending`, and runs as soon as a worker takes it."""
        return await self._connection.call(Evaluation, Ask("POST", _ROOT, content=payload(new)))

    async def get(self, evaluation_id: UUID) -> Evaluation:
        """With its report, once it is completed."""
        ask = Ask("GET", path(_ONE, id=evaluation_id), repeatable=True)
        return await self._connection.call(Evaluation, ask)

    async def list(self, wanted: EvaluationQuery | None = None) -> Page[Evaluation]:
        """Newest first."""
        ask = Ask("GET", _ROOT, params=query(wanted), repeatable=True)
        return await self._connection.call(Page[Evaluation], ask)

    async def results(
        self,
        evaluation_id: UUID,
        *,
        failed: bool | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[ExampleResult]:
        """By example number, as far as they are there; `failed` those with errors, or without."""
        given = params(failed=failed, cursor=cursor, limit=limit)
        where = path(_ONE + "/results", id=evaluation_id)
        ask = Ask("GET", where, params=given, repeatable=True)
        return await self._connection.call(Page[ExampleResult], ask)

    async def iterate_results(
        self, evaluation_id: UUID, *, failed: bool | None = None
    ) -> AsyncIterator[ExampleResult]:
        """Every result, page by page."""
        cursor: str | None = None
        while True:
            page = await self.results(evaluation_id, failed=failed, cursor=cursor, limit=MAX_LIMIT)
            for result in page.items:
                yield result
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, evaluation_id: UUID) -> Evaluation:
        """It ends within seconds; results that are there stay."""
        where = path(_ONE + "/cancel", id=evaluation_id)
        return await self._connection.call(Evaluation, Ask("POST", where, repeatable=True))

    async def events(self, evaluation_id: UUID) -> AsyncGenerator[EvaluationEvent]:
        """Its progress as it changes; the last one's status is final. Raises Unavailable when the
        stream ends before that. Leaving the iterator closes the request."""
        where = path(_ONE + "/events", id=evaluation_id)
        async with aclosing(self._connection.events(Ask("GET", where, repeatable=True))) as events:
            async for text in events:
                event = read(EvaluationEvent, text, self._connection.url)
                yield event
                if event.status.final:
                    return
        raise Unavailable("the stream was cut: it ended before the evaluation did")

    async def wait(self, evaluation_id: UUID, *, timeout_s: float = 3600) -> Evaluation:
        """Until it is final; raises DeadlineExceeded when that takes longer."""
        for _ in range(max(1, round(timeout_s / _POLL_S))):
            evaluation = await self.get(evaluation_id)
            if evaluation.status.final:
                return evaluation
            await asyncio.sleep(_POLL_S)
        raise DeadlineExceeded(f"evaluation {evaluation_id} is still {evaluation.status.value!r}")
