"""A request of the data plane, from an authenticated ask to a recorded answer.

A plain class: configuration, router, runner and spool are injected. Nothing here waits for
Postgres, or for another Ray actor but the one that hosts a model or runs a dedicated version; the
record is in the spool before the last byte is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import (
    DeadlineExceeded,
    DspexRayError,
    Invalid,
    NotFound,
    Overloaded,
)
from dspex_ray.core.ids import ExecutionId
from dspex_ray.routing.engine import Assigned
from dspex_ray.routing.pricing import cost_estimator
from dspex_ray.routing.router import Router
from dspex_ray.routing.rules import Candidate
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving import candidates, openai_wire
from dspex_ray.serving.asks import Asks
from dspex_ray.serving.metering import Metering
from dspex_ray.serving.model import BatchAsk, FeedbackAsk, PredictAsk
from dspex_ray.serving.openai_wire import ChatAsk, ChunkWriter
from dspex_ray.serving.request import Ask, Recording
from dspex_ray.serving.runner import Run, Runner, of_the_program
from dspex_ray.serving.snapshot import Configuration, Pick
from dspex_ray.serving.tracing import begin_execution, end_execution
from dspex_ray.settings import GatewaySettings
from dspex_ray.telemetry.metrics import NoMeters
from dspex_ray.traces.capture import captured
from dspex_ray.traces.model import FeedbackRecord
from dspex_ray.traces.spool import SpoolWriter

# The router keeps the deadline and says which attempts were made; this is for all the rest.
_DEADLINE_GRACE_S = 0.25

Piece = Any  # the first item of a stream is (headers, body); the others are bodies


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Gateway:
    """One a replica, on one event loop."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        asks: Asks,
        router: Router,
        runner: Runner,
        spool: SpoolWriter,
        settings: GatewaySettings,
        clock: Clock,
        metering: Metering | None = None,
    ) -> None:
        self.settings = settings
        self.asks = asks
        self._configuration = configuration
        self._router = router
        self._runner = runner
        self._spool = spool
        self._clock = clock
        self._metering = metering or Metering(NoMeters(), configuration)
        self._inflight = 0

    # --- what is there ---------------------------------------------------------------------

    def readiness(self) -> dict[str, Any]:
        """Ready once a snapshot is held; the database being away is said, not punished."""
        snapshot = self._configuration.snapshot
        age = (self._clock.now() - snapshot.taken_at).total_seconds() if snapshot.version else None
        return {
            "ready": snapshot.version > 0,
            "snapshot_version": snapshot.version,
            "snapshot_age_s": age,
            "database": "reachable" if self._configuration.database_reachable else "away",
            "inflight": self._inflight,
            "records_lost": self._spool.lost,
            "records_lost_with_nodes": self._configuration.lost_with_nodes,
        }

    def list_models(self, ask: Ask) -> Answer:
        """What `model` may say on /v1/chat/completions, in this key's project."""
        snapshot, project = self._configuration.snapshot, ask.key.project_id
        entries = [
            (name, snapshot.models[identifier].created_at, "model")
            for (owner, name), identifier in snapshot.model_ids.items()
            if owner == project
        ]
        entries += [
            (f"route/{name}", rows[0].created_at, "route")
            for (owner, name), rows in snapshot.routes.items()
            if owner == project
        ]
        entries += [
            (f"program/{name}", served.program.created_at, "program")
            for (owner, name), served in snapshot.programs.items()
            if owner == project
        ]
        models = [
            {"id": name, "object": "model", "created": int(at.timestamp()), "owned_by": kind}
            for name, at, kind in sorted(entries)
        ]
        return Answer({"object": "list", "data": models}, self._headers(ask))

    # --- programs --------------------------------------------------------------------------

    async def predict(self, ask: Ask, reference: str, wanted: PredictAsk) -> Answer:
        """Run the program that `reference` means for this unit of traffic."""
        recording = Recording(ask, "predict")
        async with self._recorded(recording):
            await self._predict(recording, reference, wanted.inputs, wanted.context)
        return Answer(self._prediction(recording), self._headers(ask, recording))

    async def predict_stream(
        self, ask: Ask, reference: str, wanted: PredictAsk
    ) -> AsyncGenerator[Piece, None]:
        """Deltas of fields as they come; last the outputs, validated and recorded."""
        recording = Recording(ask, "predict")
        async with self._recorded(recording):
            self._pick(recording, reference)
            recording.inputs = wanted.inputs
            first = True
            async with aclosing(
                self._runner.stream(self._run(recording, wanted.context))
            ) as events:
                async for event in events:
                    if event["type"] == "outputs":
                        recording.outputs = event["outputs"]
                    elif first:
                        first = False
                        yield self._headers(ask, recording), event
                    else:
                        yield event
        last = {"type": "outputs", **self._prediction(recording)}
        yield (self._headers(ask, recording), last) if first else last

    async def batch(self, ask: Ask, reference: str, wanted: BatchAsk) -> Answer:
        """Every item is an execution of its own; one that fails fails alone."""
        self._configuration.snapshot.pick(
            ask.key.project_id, reference, ask.unit, self._clock.now()
        )
        limit = asyncio.Semaphore(wanted.concurrency)

        async def one(inputs: dict[str, Any]) -> dict[str, Any]:
            async with limit:
                recording = Recording(self.asks.again(ask), "batch")
                try:
                    async with self._recorded(recording):
                        await self._predict(recording, reference, inputs, wanted.context)
                except DspexRayError as error:
                    failed = {"code": error.code, "message": error.message, **error.details}
                    return {"execution_id": str(recording.ask.id), "error": failed}
            return self._prediction(recording)

        results = await asyncio.gather(*(one(inputs) for inputs in wanted.items))
        failed = sum("error" in result for result in results)
        body = {"items": results, "succeeded": len(results) - failed, "failed": failed}
        return Answer(body, self._headers(ask))

    def feedback(self, ask: Ask, reference: str, wanted: FeedbackAsk) -> Answer:
        """Into the spool; whether the execution exists is seen when it is drained."""
        self._configuration.snapshot.served(ask.key.project_id, reference.partition("@")[0])
        given = wanted.model_dump(exclude={"execution_id"}, exclude_none=True)
        if not given:
            raise Invalid(
                "feedback says nothing: give score, label, comment or expected",
                field="score",
                rule="one of",
            )
        record = FeedbackRecord(
            id=ask.id,
            project_id=ask.key.project_id,
            execution_id=ExecutionId(wanted.execution_id),
            actor=ask.key.actor.name,
            at=ask.started_at,
            **given,
        )
        if not self._spool.append(record):
            raise Overloaded("the record could not be written; try again", retry_after_s=5)
        return Answer({"feedback_id": str(ask.id), "status": "accepted"}, self._headers(ask))

    async def _predict(
        self,
        recording: Recording,
        reference: str,
        inputs: dict[str, Any],
        context: Mapping[str, Any],
    ) -> None:
        self._pick(recording, reference)
        recording.inputs = inputs
        recording.outputs = await self._runner.run(self._run(recording, context))

    def _pick(self, recording: Recording, reference: str) -> Pick:
        ask = recording.ask
        recording.pick = self._configuration.snapshot.pick(
            ask.key.project_id, reference, ask.unit, self._clock.now()
        )
        return recording.pick

    def _run(self, recording: Recording, context: Mapping[str, Any]) -> Run:
        pick, ask = recording.pick, recording.ask
        assert pick is not None
        scope = self._scope(recording, context)
        return Run(
            ask.id, pick.program, pick.version, recording.inputs or {}, scope, ask.traceparent
        )

    def _prediction(self, recording: Recording) -> dict[str, Any]:
        assert recording.pick is not None
        return {
            "execution_id": str(recording.ask.id),
            "program": recording.pick.program.name,
            "version": recording.pick.version.number,
            "outputs": recording.outputs,
            "model": recording.answered_by,
            "usage": recording.usage(),
        }

    # --- chat ------------------------------------------------------------------------------

    async def chat(self, ask: Ask, body: Any) -> Answer | AsyncGenerator[Piece, None]:
        """An OpenAI chat completion by a model, a route or a program: whole, or as a stream."""
        wanted = openai_wire.decode_chat(body)
        kind, _, name = wanted.model.partition("/")
        if kind == "program" and name:
            if wanted.stream:
                return self._chat_program_stream(ask, wanted, name)
            return await self._chat_program(ask, wanted, name)
        assigned = self._assigned(ask, wanted.model)
        if wanted.stream:
            return self._chat_stream(ask, wanted, assigned)
        recording = Recording(ask, "chat.completions", model=wanted.model)
        async with self._recorded(recording):
            scope = self._scope(recording, {})
            answers = await asyncio.gather(
                *(
                    self._router.complete(wanted.request, self._candidates(wanted, assigned), scope)
                    for _ in range(wanted.choices)
                )
            )
        model = recording.answered_by or wanted.model
        responses = [answer.response for answer in answers]
        completion = openai_wire.completion(_chat_id(ask), _created(ask), model, responses)
        return Answer(completion, self._headers(ask, recording))

    async def _chat_stream(
        self, ask: Ask, wanted: ChatAsk, assigned: Assigned
    ) -> AsyncGenerator[Piece, None]:
        """Chunks as OpenAI's, of several choices interleaved as they come."""
        recording = Recording(ask, "chat.completions", model=wanted.model)
        writers = [
            ChunkWriter(_chat_id(ask), _created(ask), wanted.model, index)
            for index in range(wanted.choices)
        ]
        held: list[Piece] = []  # the closing chunks: sent when the record is written
        async with self._recorded(recording):
            scope = self._scope(recording, {})
            streams = [
                self._router.stream(wanted.request, self._candidates(wanted, assigned), scope)
                for _ in writers
            ]
            first = True
            async with aclosing(_interleaved([aiter(stream) for stream in streams])) as events:
                async for index, event in events:
                    if first:  # by now each choice knows whether its answer is from memory
                        yield self._headers(ask, recording), writers[index].first()
                        first = False
                    chunk = writers[index].chunk(event)
                    if event.type == "end":
                        held.append(chunk)
                    elif chunk is not None:
                        yield chunk
        for chunk in held:
            yield chunk
        if wanted.include_usage:
            usages = [writer.usage for writer in writers if writer.usage is not None]
            yield writers[0].usage_chunk(openai_wire.usage_body(usages))

    async def _chat_program(self, ask: Ask, wanted: ChatAsk, reference: str) -> Answer:
        """A program called as a chat model: the last user message holds its inputs."""
        self._one_choice(wanted)
        recording = Recording(ask, "chat.completions", model=wanted.model)
        async with self._recorded(recording):
            names = self._pick(recording, reference).version.input_names
            recording.inputs = openai_wire.program_inputs(wanted.request.messages, names)
            recording.outputs = await self._runner.run(self._run(recording, {}))
        text = openai_wire.program_text(recording.outputs)
        body = openai_wire.text_completion(
            _chat_id(ask), _created(ask), wanted.model, [text], recording.openai_usage()
        )
        return Answer(body, self._headers(ask, recording))

    async def _chat_program_stream(
        self, ask: Ask, wanted: ChatAsk, reference: str
    ) -> AsyncGenerator[Piece, None]:
        """The program's answer as chunks: one, since outputs are validated before they are sent."""
        answer = await self._chat_program(ask, wanted, reference)
        writer = ChunkWriter(_chat_id(ask), _created(ask), wanted.model)
        yield answer.headers, writer.first()
        yield writer.text(answer.body["choices"][0]["message"]["content"])
        yield writer.last()
        if wanted.include_usage:
            yield writer.usage_chunk(answer.body["usage"])

    def _one_choice(self, wanted: ChatAsk) -> None:
        if wanted.choices != 1:
            raise Invalid("a program gives one choice: n must be 1", field="n", rule="one")

    def _assigned(self, ask: Ask, model: str) -> Assigned:
        """The candidates that the body's `model` names: one model, or a route's assignments."""
        snapshot, project = self._configuration.snapshot, ask.key.project_id
        kind, _, name = model.partition("/")
        if kind == "route" and name:
            rows = snapshot.routes.get((project, name))
            if rows is None:
                raise NotFound(f"no route {name!r} in this project", kind="route", name=name)
            return candidates.assigned(self._configuration, rows)
        found = candidates.with_figures(self._configuration, snapshot.model(project, model))
        return [candidates.direct(found, self._clock.now())]

    def _candidates(self, wanted: ChatAsk, assigned: Assigned) -> list[Candidate]:
        return [
            Candidate(row, model, cost_estimator(wanted.request, model)) for row, model in assigned
        ]

    # --- around every request --------------------------------------------------------------

    @asynccontextmanager
    async def _recorded(self, recording: Recording) -> AsyncIterator[None]:
        """Admission, the deadline, and one record whatever happens, written before this ends."""
        if self._inflight >= self.settings.max_inflight:
            self._metering.shed()
            raise Overloaded(
                f"this replica serves {self._inflight} requests already", retry_after_s=1
            )
        self._inflight += 1
        ask = recording.ask
        begin_execution(recording)
        try:
            left = ask.deadline - self._clock.monotonic()
            async with asyncio.timeout(left + _DEADLINE_GRACE_S) as timer:
                yield
        except DspexRayError as error:
            self._write(recording, error)
            raise
        except TimeoutError as error:
            if not timer.expired():
                failure: DspexRayError = of_the_program(error)
            else:
                failure = DeadlineExceeded("the request ran out of time")
            recording.give_up()
            self._write(recording, failure)
            raise failure from error
        except (asyncio.CancelledError, GeneratorExit):
            recording.give_up()
            self._write(recording, None, cancelled=True)
            raise
        except Exception as error:
            failure = of_the_program(error)
            self._write(recording, failure)
            raise failure from error
        else:
            self._write(recording, None)
        finally:
            self._inflight -= 1

    def _write(
        self, recording: Recording, error: DspexRayError | None, *, cancelled: bool = False
    ) -> None:
        record = recording.record(self._clock.monotonic(), error=error, cancelled=cancelled)
        self._spool.append(captured(record, recording.capture))
        self._metering.executed(record)
        end_execution(recording, record)

    def _scope(self, recording: Recording, context: Mapping[str, Any]) -> RequestScope:
        recording.scope = RequestScope(
            deadline=recording.ask.deadline,
            sink=recording,
            inputs=recording.inputs or {},
            context=context,
            capture_content=recording.keeps_content,
            cache=recording.ask.cache,
        )
        return recording.scope

    def _headers(self, ask: Ask, recording: Recording | None = None) -> dict[str, str]:
        headers = {
            "traceparent": ask.traceparent,  # Serve itself answers with x-request-id
            **self.asks.rate_headers(ask.key),
        }
        if recording is not None:
            headers |= recording.headers(self._clock.monotonic())
        return headers


def _chat_id(ask: Ask) -> str:
    return f"chatcmpl-{ask.id}"


def _created(ask: Ask) -> int:
    return int(ask.started_at.timestamp())


async def _interleaved(
    streams: list[AsyncGenerator[Any, None]],
) -> AsyncGenerator[tuple[int, Any], None]:
    """(index, event) of several streams as they come; the first error ends all of them."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    arrived: asyncio.Queue[tuple[int, Any] | BaseException | None] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Any, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    arrived.put_nowait((index, event))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
