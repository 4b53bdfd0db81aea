# Generated from ../aio/programs.py by scripts/generate_sync_client.py: edit that one.
"""Programs: their versions and labels, and running them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

from dspex_ray.client.bodies import Ask, calling, if_match, made, params, path, payload, read_event
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core.errors import Unavailable
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from dspex_ray.programs.model import (
    ExportedVersion,
    LabelMove,
    LabelTarget,
    NewProgram,
    NewVersion,
    Program,
    ProgramStatus,
    ProgramUpdate,
    ProgramVersion,
    VersionSpace,
)
from dspex_ray.serving.model import (
    BatchAsk,
    BatchResult,
    FeedbackAsk,
    FeedbackReceipt,
    Outputs,
    PredictAsk,
    Prediction,
    StreamEvent,
)
from dspex_ray.traces.model import NewFeedback
from dspex_ray.variables.model import (
    ConfigurationAsk,
    SampleAsk,
    Samples,
    SamplingMethod,
    Verdict,
)

_ROOT = "/api/v1/programs"


class Programs:
    """`name` is a program's name; `reference` is `name`, `name@<version>` or `name@<label>`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, new: NewProgram) -> Program:
        """A draft; with `source` a ready program with version 1 and its labels."""
        return self._connection.call(Program, Ask("POST", _ROOT, content=payload(new)))

    def get(self, name: str) -> Program:
        ask = Ask("GET", path(_ROOT + "/{name}", name=name), repeatable=True)
        return self._connection.call(Program, ask)

    def list(
        self,
        *,
        status: ProgramStatus | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Program]:
        given = params(status=status, cursor=cursor, limit=limit)
        ask = Ask("GET", _ROOT, params=given, repeatable=True)
        return self._connection.call(Page[Program], ask)

    def iterate(self, *, status: ProgramStatus | None = None) -> Iterator[Program]:
        """Every program, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(status=status, cursor=cursor, limit=MAX_LIMIT)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def update(self, name: str, change: ProgramUpdate, *, revision: int | None = None) -> Program:
        """Change the given fields; with `revision`, only if the program still has it (Stale)."""
        ask = Ask(
            "PATCH",
            path(_ROOT + "/{name}", name=name),
            content=payload(change),
            headers=if_match(revision),
        )
        return self._connection.call(Program, ask)

    def archive(self, name: str) -> Program:
        """Final: an archived program is served no longer."""
        return self._connection.call(
            Program, Ask("POST", path(_ROOT + "/{name}/archive", name=name))
        )

    # --- versions and labels ---------------------------------------------------------------

    def add_version(self, name: str, new: NewVersion) -> ProgramVersion:
        """A new version, or the existing one of the same content."""
        ask = Ask("POST", path(_ROOT + "/{name}/versions", name=name), content=payload(new))
        return self._connection.call(ProgramVersion, ask)

    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ProgramVersion]:
        """Newest first."""
        ask = Ask(
            "GET",
            path(_ROOT + "/{name}/versions", name=name),
            params=params(cursor=cursor, limit=limit),
            repeatable=True,
        )
        return self._connection.call(Page[ProgramVersion], ask)

    def version(self, name: str, number: int) -> ProgramVersion:
        where = path(_ROOT + "/{name}/versions/{number}", name=name, number=number)
        return self._connection.call(ProgramVersion, Ask("GET", where, repeatable=True))

    def export(self, name: str, number: int) -> ExportedVersion:
        """The version's artifact: `NewVersion(**exported.model_dump())` loads it again."""
        where = path(_ROOT + "/{name}/versions/{number}/export", name=name, number=number)
        return self._connection.call(ExportedVersion, Ask("GET", where, repeatable=True))

    def space(self, name: str, number: int) -> VersionSpace:
        """What may be changed about a version."""
        where = path(_ROOT + "/{name}/versions/{number}/space", name=name, number=number)
        return self._connection.call(VersionSpace, Ask("GET", where, repeatable=True))

    def sample_space(
        self,
        name: str,
        number: int,
        *,
        method: SamplingMethod = SamplingMethod.RANDOM,
        n: int = 10,
        seed: int = 0,
        levels: int = 5,
    ) -> Samples:
        """`n` valid configurations (of a grid at most `n`, all of them), the same for the same
        seed. Raises Invalid, rule "satisfiable", when none is found."""
        where = path(_ROOT + "/{name}/versions/{number}/space/sample", name=name, number=number)
        body = made(SampleAsk, method=method, n=n, seed=seed, levels=levels)
        ask = Ask("POST", where, content=payload(body), repeatable=True)
        return self._connection.call(Samples, ask)

    def validate_configuration(
        self, name: str, number: int, configuration: Mapping[str, Any]
    ) -> Verdict:
        """All that is wrong with a configuration of a version, by variable and rule."""
        where = path(_ROOT + "/{name}/versions/{number}/space/validate", name=name, number=number)
        body = made(ConfigurationAsk, configuration=dict(configuration))
        ask = Ask("POST", where, content=payload(body), repeatable=True)
        return self._connection.call(Verdict, ask)

    def label(self, name: str, label: str, version: int) -> Program:
        """Put a label (`production`, `staging`, ...) on a version."""
        where = path(_ROOT + "/{name}/labels/{label}", name=name, label=label)
        target = payload(made(LabelTarget, version=version))
        return self._connection.call(Program, Ask("PUT", where, content=target))

    def label_moves(self, name: str, *, limit: int = DEFAULT_LIMIT) -> Page[LabelMove]:
        """Newest first."""
        ask = Ask(
            "GET",
            path(_ROOT + "/{name}/label-moves", name=name),
            params=params(limit=limit),
            repeatable=True,
        )
        return self._connection.call(Page[LabelMove], ask)

    # --- running ---------------------------------------------------------------------------

    def predict(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        session: str | None = None,
        timeout_s: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Run a program. `session` keeps a user on one version of a split; `timeout_s` is the
        deadline that the platform keeps; `tags` are recorded with the execution."""
        ask = _predict(
            reference, inputs, context, False, timeout_s, calling(session, timeout_s, tags)
        )
        return self._connection.call(Prediction, ask)

    def stream(
        self,
        reference: str,
        inputs: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        session: str | None = None,
        timeout_s: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Generator[StreamEvent]:
        """Deltas of output fields as they come; last the `Outputs`, validated.

        A failure on the way is raised, also when the stream just ends (Unavailable). Leaving the
        iterator closes the request; use `contextlib.closing` to have it closed at once.
        """
        ask = _predict(
            reference, inputs, context, True, timeout_s, calling(session, timeout_s, tags)
        )
        with closing(self._connection.events(ask)) as events:
            for data in events:
                event = read_event(data, self._connection.url)
                yield event
                if isinstance(event, Outputs):
                    return
        raise Unavailable("the stream was cut: it ended without its outputs")

    def batch(
        self,
        reference: str,
        items: Sequence[Mapping[str, Any]],
        *,
        context: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        session: str | None = None,
        timeout_s: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> BatchResult:
        """Run a program on many inputs, `concurrency` at once; one that fails fails alone."""
        every = [dict(inputs) for inputs in items]
        body = made(BatchAsk, items=every, context=dict(context or {}), concurrency=concurrency)
        ask = Ask(
            "POST",
            path("/v1/programs/{reference}/batch", reference=reference),
            content=payload(body),
            headers=calling(session, timeout_s, tags),
            timeout_s=timeout_s,
        )
        return self._connection.call(BatchResult, ask)

    def feedback(self, name: str, execution_id: UUID, given: NewFeedback) -> FeedbackReceipt:
        """Judge an execution with a key that may only invoke; recorded shortly after."""
        body = made(FeedbackAsk, execution_id=execution_id, **given.model_dump(exclude_unset=True))
        ask = Ask("POST", path("/v1/programs/{name}/feedback", name=name), content=payload(body))
        return self._connection.call(FeedbackReceipt, ask)


def _predict(
    reference: str,
    inputs: Mapping[str, Any],
    context: Mapping[str, Any] | None,
    stream: bool,
    timeout_s: float | None,
    headers: Mapping[str, str],
) -> Ask:
    body = made(PredictAsk, inputs=dict(inputs), context=dict(context or {}), stream=stream)
    return Ask(
        "POST",
        path("/v1/programs/{reference}/predict", reference=reference),
        content=payload(body),
        headers=headers,
        timeout_s=timeout_s,
        repeatable=True,
    )
