"""Versions built, held and run in this process: the `shared` placement, and the replicas of a
`dedicated` one, which `serving/dedicated.py` reaches by the same interface."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from concurrent.futures import Executor as Threads
from contextlib import aclosing
from typing import Any, Protocol

from dspex_ray.core.ids import ProgramId
from dspex_ray.programs.artifacts import load_artifact
from dspex_ray.programs.model import Program
from dspex_ray.programs.runtime import (
    LoadedProgram,
    current_predictor,
    load_program,
    run_program,
    stream_program,
)
from dspex_ray.routing.engine import Assigned, Route, routed_lm
from dspex_ray.routing.router import Router
from dspex_ray.routing.scope import request_scope
from dspex_ray.serving import candidates
from dspex_ray.serving.runner import Run
from dspex_ray.serving.snapshot import Configuration, ServedVersion

Pins = tuple[tuple[str, str], ...]

_HELD = 256  # built programs; a version is KBs of JSON and some dspy objects


class BuiltFrom(Protocol):
    """A version, or what is none yet: an artifact as JSON and its hash."""

    @property
    def hash(self) -> str: ...

    @property
    def artifact(self) -> dict[str, Any]: ...


class Executor:
    """Builds a version once, however many requests come for it, and keeps the newest used."""

    def __init__(self, allowed_packages: tuple[str, ...]) -> None:
        self._allowed = allowed_packages
        self._built: OrderedDict[str, asyncio.Future[LoadedProgram]] = OrderedDict()

    async def program(self, version: BuiltFrom) -> LoadedProgram:
        """Raises Invalid when the artifact cannot be built here (a class that changed)."""
        held = self._built.get(version.hash)
        if held is None:
            held = asyncio.ensure_future(asyncio.to_thread(self._build, version))
            self._built[version.hash] = held
            if len(self._built) > _HELD:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(version.hash)
        try:
            # Shielded: one caller that goes away does not end the building for the others.
            return await asyncio.shield(held)
        except asyncio.CancelledError:
            raise
        except BaseException:
            if self._built.get(version.hash) is held:
                del self._built[version.hash]  # the next request tries again
            raise

    def _build(self, version: BuiltFrom) -> LoadedProgram:
        artifact = load_artifact(version.artifact, version.hash)
        return load_program(artifact, allowed_packages=self._allowed)


class LocalRunner:
    """Runs versions on this process's event loop and threads, their calls routed here."""

    def __init__(
        self, executor: Executor, router: Router, configuration: Configuration, threads: Threads
    ) -> None:
        self._executor = executor
        self._router = router
        self._configuration = configuration
        self._threads = threads
        self._lms: dict[tuple[ProgramId, Pins], Any] = {}

    async def prepare(self, version: ServedVersion) -> None:
        """Build it now; raises Invalid when it cannot be built here."""
        await self._executor.program(version)

    async def run(self, run: Run) -> dict[str, Any]:
        loaded = await self._executor.program(run.version)
        lm = self._lm(run.program, run.version)
        with request_scope(run.scope):
            return await run_program(loaded, run.inputs, lm=lm, threads=self._threads)

    async def stream(self, run: Run) -> AsyncGenerator[Any, None]:
        loaded = await self._executor.program(run.version)
        lm = self._lm(run.program, run.version)
        with request_scope(run.scope):
            events = stream_program(loaded, run.inputs, lm=lm, threads=self._threads)
            async with aclosing(events):
                async for event in events:
                    yield event

    def _lm(self, program: Program, version: ServedVersion) -> Any:
        """The routed LM of the program's versions that pin the same models; it asks the newest
        snapshot at every call."""
        pins = dict(version.pins)

        def assigned() -> Assigned:
            rows = self._configuration.snapshot.assignments.get(program.id, ())
            return candidates.assigned_for(self._configuration, rows, pins, program.project_id)

        key = program.id, tuple(sorted(pins.items()))
        if key not in self._lms:
            route = Route(self._router, assigned, current_predictor)
            self._lms[key] = routed_lm(program.name, route, asyncio.get_running_loop())
        return self._lms[key]
