"""The process of an actor of a run's pool: programs and metrics, and a line to the run's own actor.
It has neither database nor router, nor the keys of any model."""

from __future__ import annotations

from functools import cache
from typing import Any

from dspex_ray.optimization.candidates import Candidates
from dspex_ray.optimization.wire import Ask, AskVectors, Told, packed, unpacked
from dspex_ray.settings import Settings
from dspex_ray.telemetry.logs import configure_logs

CANDIDATES_BUILD = "dspex_ray.apps.candidates:candidates"


class RunActorLine:
    """`optimization.remote.Line`: one actor call each."""

    def __init__(self, name: str) -> None:
        import ray

        from dspex_ray.apps.run_job import NAMESPACE

        self._actor: Any = ray.get_actor(name, namespace=NAMESPACE)

    async def complete(self, ask: Ask) -> Told:
        return Told.model_validate(unpacked(await self._actor.complete.remote(packed(ask))))

    async def embed(self, ask: AskVectors) -> Told:
        return Told.model_validate(unpacked(await self._actor.embed.remote(packed(ask))))


def candidates() -> Candidates:
    settings = Settings()
    configure_logs(settings.log_level)
    return Candidates(cache(RunActorLine), allowed_packages=settings.program_packages)
