"""The process of a run's Ray job: it starts the run's actor and waits for it, so that both live and
end together. Light: DSPy, models and database are the actor's."""

from __future__ import annotations

import importlib
from typing import Any
from uuid import UUID

from dspex_ray.core.errors import NotFound, Unavailable

NAMESPACE = "dspex"
_PROCESS = "dspex_ray.apps.optimizer:optimizer"
_AT_ONCE = 20_000  #: calls of an actor: LM calls of all candidates wait in it


class RunActor:
    """One attempt of one run: what its candidates and its trials call, by JSON."""

    def __init__(self, name: str) -> None:
        module, _, build = _PROCESS.partition(":")
        self._process: Any = getattr(importlib.import_module(module), build)(name)

    async def drive(self, run_id: str, job: str | None) -> str | None:
        """The run as JSON, when the attempt is over; None when there was nothing to drive."""
        run = await self._process.drive(UUID(run_id), job)
        return None if run is None else str(run.model_dump_json())

    async def complete(self, ask: str) -> str:
        """An LM call of a candidate (`optimization.wire`)."""
        return str(await self._process.complete(ask))

    async def embed(self, ask: str) -> str:
        return str(await self._process.embed(ask))

    async def measure(self, number: int) -> dict[str, float | str]:
        """What trial `number` comes to (`optimization.tuning.answered`)."""
        figures: dict[str, float | str] = await self._process.measure(number)
        return figures


def drive(run_id: UUID, job: str | None = None) -> Any:
    """One attempt of a run: the `OptimizationRun` at its end. This process is one of the cluster.

    Raises NotFound when there is nothing to drive, Unavailable when the actor died.
    """
    import ray
    from ray.exceptions import RayActorError

    from dspex_ray.optimization.runs import OptimizationRun

    ray.init(logging_level="WARNING", ignore_reinit_error=True, namespace=NAMESPACE)
    name = f"optimization-{job or run_id}"
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": 0,  # it waits for models; a laptop's CPUs are taken by Serve
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": _AT_ONCE,
    }
    actor = ray.remote(RunActor).options(**options).remote(name)
    try:
        found = ray.get(actor.drive.remote(str(run_id), job))
    except RayActorError as error:
        raise Unavailable(f"the process of optimization {run_id} died") from error
    if found is None:
        raise NotFound(f"no pending optimization {run_id}: another drives it, or it has ended")
    return OptimizationRun.model_validate_json(found)
