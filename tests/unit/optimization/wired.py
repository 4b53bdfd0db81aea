"""A pool whose actors are objects here, and everything between crosses as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from dspex_ray.evaluation import actors
from dspex_ray.evaluation.actors import PoolActor, WorkPool
from dspex_ray.optimization.candidates import Candidates, CandidateWork, RunItem, RunResult
from dspex_ray.optimization.door import CallDoor
from dspex_ray.optimization.pool import CANDIDATES
from dspex_ray.optimization.wire import Ask, AskVectors, Told, packed, unpacked
from tests.unit.evaluation.parts import Posted


class WiredLine:
    """`optimization.remote.Line` to a door of this process. `before` is called with each Ask: it
    may raise, or wait."""

    def __init__(self, door: CallDoor, before: Callable[[Ask], Any] | None = None) -> None:
        self._door, self._before = door, before

    async def complete(self, ask: Ask) -> Told:
        if self._before is not None:
            await self._before(ask)
        told = await self._door.complete(Ask.model_validate(unpacked(packed(ask))))
        return Told.model_validate(unpacked(packed(told)))

    async def embed(self, ask: AskVectors) -> Told:
        told = await self._door.embed(AskVectors.model_validate(unpacked(packed(ask))))
        return Told.model_validate(unpacked(packed(told)))


class WiredActor(Posted):
    """A handle as Ray's, of an actor in this event loop, until `kill`."""

    def __init__(self, hand: Candidates, pid: int) -> None:
        super().__init__()
        self._actor = PoolActor("")
        self._actor._hand = hand
        self.pid, self.runs, self.loads = pid, 0, 0
        self.unload = _Told(self._actor.unload)

    async def start(self) -> int:
        return self.pid

    async def stop(self) -> None:
        """It has nothing to stop."""

    async def load(self, work: str, at_once: int | None) -> None:
        self.loads += 1
        await self._actor.load(work, at_once)

    async def evaluate(self, work_id: str, item: str) -> str:
        self.runs += 1
        return await self._actor.evaluate(work_id, item)

    def kill(self) -> None:
        self._lost.set()


class _Told:
    def __init__(self, method: Any) -> None:
        self._method, self._under_way = method, set[Any]()

    def remote(self, *arguments: Any) -> None:
        self._under_way.add(asyncio.ensure_future(self._method(*arguments)))


class Wired:
    """In place of Ray's cluster: use `pool`, and kill `actors`."""

    def __init__(self, monkeypatch: Any, door: CallDoor) -> None:
        self.door, self.actors = door, list[WiredActor]()
        self.before: Callable[[Ask], Any] | None = None
        monkeypatch.setattr(actors, "_alive_nodes", lambda: ["n1"])
        monkeypatch.setattr(actors, "_new_actor", self._new)
        monkeypatch.setattr(actors, "_asked", _asked)
        monkeypatch.setattr(actors, "_kill", WiredActor.kill)

    def pool(
        self, count: int = 2, per_actor: int = 256
    ) -> WorkPool[CandidateWork, RunItem, RunResult]:
        return WorkPool("x:y", CANDIDATES, actors=count, per_actor=per_actor)

    def _new(self, build_path: str, node_id: str, actor: type[Any]) -> WiredActor:
        async def before(ask: Ask) -> None:
            if self.before is not None:
                await self.before(ask)

        hand = Candidates(
            lambda name: WiredLine(self.door, before), allowed_packages=("dspy", "dspex_ray")
        )
        self.actors.append(WiredActor(hand, len(self.actors) + 1))
        return self.actors[-1]


async def _asked(method: Any, *arguments: Any) -> Any:
    return await method(*arguments)


class Served:
    """`optimization.door.Serving`: one LM for the program, others for judges."""

    def __init__(self, lm: Any, judges: Mapping[str, Any] | None = None) -> None:
        self._lm, self._judges = lm, judges or {}

    def engine(self, judge: str | None, models: Mapping[str, str]) -> Any:
        return (self._lm if judge is None else self._judges[judge])._async_engine_spec

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), 1.0] for text in texts]
