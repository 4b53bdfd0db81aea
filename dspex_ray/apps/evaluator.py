"""The process of an actor of the evaluation pool: what a gateway has to call models and to record
it, without a gateway."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import ray

from dspex_ray.apps.replica import Replica
from dspex_ray.bootstrap import read_settings
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id
from dspex_ray.evaluation.model import ExampleResult
from dspex_ray.evaluation.work import Item, Work
from dspex_ray.serving.examples import Examples
from dspex_ray.serving.scoring import Calling
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.traces.losses import SpoolReporter
from dspex_ray.traces.spool import SpoolWriter

EVALUATOR_BUILD = "dspex_ray.apps.evaluator:evaluator"


class EvaluatorProcess:
    """`evaluation.actors.Hand`: the parts of one process, and their life."""

    work, item = Work, Item

    def __init__(self) -> None:
        settings, clock = read_settings(), SystemClock()
        self._rotate_s = settings.spool.rotate_s
        self._spool = SpoolWriter(settings.spool_dir, settings.spool, clock, new_id)
        configuration = Configuration()
        self._replica = Replica(
            settings,
            clock,
            "evaluator",
            configuration=configuration,
            lost=lambda: self._spool.lost,
        )
        calling = Calling(configuration, self._replica.router, self._replica.threads, clock)
        self._examples = Examples(
            calling,
            self._replica.executor,
            self._spool,
            allowed_packages=settings.program_packages,
        )
        node = ray.get_runtime_context().get_node_id()
        self._reporter = SpoolReporter(self._replica.database, self._spool, node, clock)
        self._ticking: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._replica.start()
        self._ticking = [asyncio.create_task(work()) for work in (self._rotate, self._reporter.run)]
        await self._replica.loaded()

    async def stop(self) -> None:
        """Hands over what is recorded, and tells that nobody need wait for this process."""
        for task in self._ticking:
            task.cancel()
        await asyncio.gather(*self._ticking, return_exceptions=True)
        with suppress(Exception):
            await self._replica.stop()
        self._spool.close()

    async def load(self, work: Work) -> None:
        await self._examples.load(work)

    async def evaluate(self, work_id: str, item: Item) -> ExampleResult:
        return await self._examples.evaluate(work_id, item)

    def unload(self, work_id: str) -> None:
        self._examples.unload(work_id)

    async def _rotate(self) -> None:
        """Hand full or old segments to the drainer."""
        while True:
            await asyncio.sleep(self._rotate_s)
            self._spool.rotate()


def evaluator() -> EvaluatorProcess:
    return EvaluatorProcess()
