# Generated from ../aio/evaluations.py by scripts/generate_sync_client.py: edit that one.
"""Evaluations: program versions measured on datasets."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from uuid import UUID

from dspex_ray.client.bodies import Ask, params, path, payload, query, read
from dspex_ray.client.sync.connection import Connection
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


class Evaluations:
    """What is asked for runs in the background; follow it by `events`, or `wait` for it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, new: NewEvaluation) -> Evaluation:
        """It is `pending`, and runs as soon as a worker takes it."""
        return self._connection.call(Evaluation, Ask("POST", _ROOT, content=payload(new)))

    def get(self, evaluation_id: UUID) -> Evaluation:
        """With its report, once it is completed."""
        ask = Ask("GET", path(_ONE, id=evaluation_id), repeatable=True)
        return self._connection.call(Evaluation, ask)

    def list(self, wanted: EvaluationQuery | None = None) -> Page[Evaluation]:
        """Newest first."""
        ask = Ask("GET", _ROOT, params=query(wanted), repeatable=True)
        return self._connection.call(Page[Evaluation], ask)

    def results(
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
        return self._connection.call(Page[ExampleResult], ask)

    def iterate_results(
        self, evaluation_id: UUID, *, failed: bool | None = None
    ) -> Iterator[ExampleResult]:
        """Every result, page by page."""
        cursor: str | None = None
        while True:
            page = self.results(evaluation_id, failed=failed, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, evaluation_id: UUID) -> Evaluation:
        """It ends within seconds; results that are there stay."""
        where = path(_ONE + "/cancel", id=evaluation_id)
        return self._connection.call(Evaluation, Ask("POST", where, repeatable=True))

    def events(self, evaluation_id: UUID) -> Generator[EvaluationEvent]:
        """Its progress as it changes; the last one's status is final. Raises Unavailable when the
        stream ends before that. Leaving the iterator closes the request."""
        where = path(_ONE + "/events", id=evaluation_id)
        with closing(self._connection.events(Ask("GET", where, repeatable=True))) as events:
            for text in events:
                event = read(EvaluationEvent, text, self._connection.url)
                yield event
                if event.status.final:
                    return
        raise Unavailable("the stream was cut: it ended before the evaluation did")

    def wait(self, evaluation_id: UUID, *, timeout_s: float = 3600) -> Evaluation:
        """Until it is final; raises DeadlineExceeded when that takes longer."""
        for _ in range(max(1, round(timeout_s / _POLL_S))):
            evaluation = self.get(evaluation_id)
            if evaluation.status.final:
                return evaluation
            time.sleep(_POLL_S)
        raise DeadlineExceeded(f"evaluation {evaluation_id} is still {evaluation.status.value!r}")
