"""The data plane on a real socket, without Ray and without Postgres: its snapshot is written here.

Everything else is as in production: gateway, router, engines, spool.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from fastapi import FastAPI

from dspex_ray.access.rules import KeyRecord, mint
from dspex_ray.api.data_plane import data_plane_app
from dspex_ray.core.actor import Scope
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import (
    DEFAULT_PROJECT,
    AssignmentId,
    KeyId,
    ModelId,
    ProgramId,
    ProjectId,
    VersionId,
    new_id,
    random_bits,
)
from dspex_ray.models.model import Model, ModelStats, ModelStatus, Price, Provider
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.model import CapturePolicy, Program, ProgramSource, ProgramStatus
from dspex_ray.programs.source import resolve_source
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.model import ProgramModel
from dspex_ray.routing.router import Router
from dspex_ray.serving.asks import Asks
from dspex_ray.serving.engines import EnginePool
from dspex_ray.serving.executor import Executor, LocalRunner
from dspex_ray.serving.gateway import Gateway
from dspex_ray.serving.model import Arm, Split
from dspex_ray.serving.runner import ByPlacement, Runner
from dspex_ray.serving.snapshot import Configuration, ServedProgram, ServedVersion, Snapshot
from dspex_ray.settings import GatewaySettings, RoutingSettings, SpoolSettings
from dspex_ray.traces.model import ExecutionRecord, FeedbackRecord
from dspex_ray.traces.spool import SpoolReader, SpoolWriter

_PRICE = Price(prompt_usd_per_token=Decimal("0.001"), completion_usd_per_token=Decimal("0.002"))
PACKAGES = ("dspy", "dspex_ray.testing")


class _AsServe:
    """Cancels the request's task when its client goes away, as Ray Serve's replicas do."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Any] = asyncio.Queue()
        answered = False

        async def send_on(message: Any) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body")

        answering = asyncio.create_task(self._app(scope, messages.get, send_on))

        async def listen() -> None:
            gone = False
            while not gone:
                message = await receive()
                messages.put_nowait(message)
                gone = message["type"] == "http.disconnect"
            if not answered:  # uvicorn says "disconnect" after a whole answer too
                answering.cancel()

        listening = asyncio.create_task(listen())
        try:
            await asyncio.wait([answering])
            if not answering.cancelled():
                answering.result()
        finally:
            listening.cancel()


class DataPlane:
    """`with DataPlane(folder) as plane: plane.url`. Add models and programs before or after."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: GatewaySettings | None = None,
        routing: RoutingSettings | None = None,
        spool: SpoolSettings | None = None,
        dedicated: Runner | None = None,
    ) -> None:
        self.configuration = Configuration(Snapshot(version=1))
        self._clock = SystemClock()
        self.spool = SpoolWriter(folder, spool or SpoolSettings(), self._clock, new_id)
        self._folder = folder
        self._records: list[ExecutionRecord | FeedbackRecord] = []
        self._threads = ThreadPoolExecutor(8)
        self.settings = settings or GatewaySettings()
        routing = routing or RoutingSettings(retry_base_ms=1, retry_max_ms=5)
        self.engines = EnginePool(self.configuration, lambda model: None)
        router = Router(
            routing,
            self._clock,
            random.Random(7),  # noqa: S311 - a test that fails must fail again
            self.engines,
            Breakers(routing),
            Limits(),
            self.configuration.wanted_checks.add,
        )
        local = LocalRunner(Executor(PACKAGES), router, self.configuration, self._threads)
        self.gateway = Gateway(
            configuration=self.configuration,
            asks=Asks(self.configuration, self.settings, self._clock, new_id, random_bits),
            router=router,
            runner=local if dedicated is None else ByPlacement(local, dedicated),
            spool=self.spool,
            settings=self.settings,
            clock=self._clock,
        )
        self.key = self.add_key()
        config = uvicorn.Config(
            _AsServe(data_plane_app(self.gateway, lifespan=self._life)),
            port=0,
            log_level="error",
            loop="asyncio",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> DataPlane:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the data plane did not start")
            self._thread.join(0.005)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._threads.shutdown(wait=False)
        self.spool.close()

    @asynccontextmanager
    async def _life(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        await self.engines.aclose()  # on the loop that opened their connections

    @property
    def url(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def records(self) -> list[ExecutionRecord | FeedbackRecord]:
        """All that was recorded so far, oldest first."""
        self.spool.rotate()
        reader = SpoolReader(self._folder)
        for segment in reader.claim():
            self._records += list(reader.read(segment))
            reader.done(segment)
        return self._records

    # --- what is configured ----------------------------------------------------------------

    def change(self, **fields: Any) -> None:
        """Swap the snapshot for one with these fields and the next version."""
        held = self.configuration.snapshot
        fields.setdefault("version", held.version + 1)
        self.configuration.snapshot = replace(held, **fields)

    def add_key(
        self,
        scopes: Iterable[Scope] = (Scope.INVOKE,),
        *,
        project: ProjectId = DEFAULT_PROJECT,
        requests_per_minute: int | None = None,
    ) -> str:
        """The secret of a new key."""
        prefix, secret, digest = mint(secrets.token_bytes)
        record = KeyRecord(
            KeyId(new_id()),
            project,
            prefix,
            digest,
            frozenset(scopes),
            requests_per_minute,
            None,
            None,
        )
        self.change(keys={**self.configuration.snapshot.keys, prefix: record})
        return secret

    def add_model(
        self, name: str, base_url: str, *, project: ProjectId = DEFAULT_PROJECT, **fields: Any
    ) -> Model:
        """A healthy, available, priced model at this address."""
        now = self._clock.now()
        model = Model(
            **{
                "id": ModelId(new_id()),
                "project_id": project,
                "name": name,
                "provider": Provider.OPENAI_COMPATIBLE,
                "model_name": f"upstream-{name}",
                "base_url": base_url,
                "status": ModelStatus.AVAILABLE,
                "price": _PRICE,
                "price_version": 1,
                "stats": ModelStats(success_rate=1.0, last_health_check=now),
                "created_at": now,
                "updated_at": now,
                **fields,
            }
        )
        held = self.configuration.snapshot
        self.change(
            models={**held.models, model.id: model},
            model_ids={**held.model_ids, (project, name): model.id},
        )
        return model

    def add_program(
        self,
        name: str,
        *sources: ProgramSource,
        labels: dict[str, int] | None = None,
        capture: CapturePolicy | None = None,
        weights: dict[int, int] | None = None,
        project: ProjectId = DEFAULT_PROJECT,
    ) -> Program:
        """A program whose versions are these sources; version 1 is labelled production."""
        now = self._clock.now()
        program = Program(
            id=ProgramId(new_id()),
            project_id=project,
            name=name,
            status=ProgramStatus.READY,
            capture=capture or CapturePolicy(),
            labels={"production": 1} if labels is None else labels,
            latest_version=len(sources),
            created_at=now,
            updated_at=now,
        )
        versions = {}
        for number, source in enumerate(sources, 1):
            artifact = resolve_source(source, allowed_packages=PACKAGES)
            versions[number] = ServedVersion(
                VersionId(new_id()), number, artifact_hash(artifact), artifact_payload(artifact)
            )
        split = None
        if weights is not None:
            arms = tuple(Arm(version=v, weight_bp=w) for v, w in weights.items())
            split = Split(
                program_id=program.id,
                project_id=project,
                salt="salt",
                epoch=1,
                arms=arms,
                updated_at=now,
            )
        held = self.configuration.snapshot
        served = ServedProgram(program, versions, split)
        self.change(programs={**held.programs, (project, name): served})
        return program

    def assign(self, target: Program | str, model: Model, **fields: Any) -> ProgramModel:
        """Assign to a program, or to the route of this name."""
        now = self._clock.now()
        program_id = target.id if isinstance(target, Program) else None
        assignment = ProgramModel(
            id=AssignmentId(new_id()),
            project_id=model.project_id,
            program_id=program_id,
            route=None if program_id else str(target),
            model_id=model.id,
            model_name=model.name,
            created_at=now,
            updated_at=now,
            **fields,
        )
        held = self.configuration.snapshot
        if program_id is not None:
            rows = (*held.assignments.get(program_id, ()), assignment)
            self.change(assignments={**held.assignments, program_id: rows})
        else:
            key = (model.project_id, str(target))
            self.change(routes={**held.routes, key: (*held.routes.get(key, ()), assignment)})
        return assignment
