"""The replica's leaf engines: one a model revision, built when first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import ModelId
from dspex_ray.models.model import Model
from dspex_ray.models.providers import LeafEngine, build_engine
from dspex_ray.serving.snapshot import Configuration

log = structlog.get_logger()
_GRACE_S = 120.0  # calls in flight may go on with the engine of an older revision

# An lm15 AsyncTransport for a model that this instance hosts itself; None for all others.
TransportFor = Callable[[Model], Any]


class EnginePool:
    """Engines belong to the event loop of the replica; a changed model gets a new one."""

    def __init__(self, configuration: Configuration, transport_for: TransportFor) -> None:
        self._configuration = configuration
        self._transport_for = transport_for
        self._engines: dict[ModelId, tuple[int, LeafEngine]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __call__(self, model_id: ModelId) -> LeafEngine:
        """Raises Unavailable when the model left the configuration, or what `build_engine` says."""
        snapshot = self._configuration.snapshot
        model = snapshot.models.get(model_id)
        if model is None:
            raise Unavailable(f"model {model_id} is no longer registered")
        held = self._engines.get(model_id)
        if held is not None and held[0] == model.revision:
            return held[1]
        engine = build_engine(
            model, snapshot.provider_keys.get(model_id), transport=self._transport_for(model)
        )
        self._engines[model_id] = (model.revision, engine)
        if held is not None:
            self._retire(held[1])
        return engine

    def _retire(self, engine: LeafEngine) -> None:
        async def close() -> None:
            await asyncio.sleep(_GRACE_S)
            await engine.aclose()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        for task in self._closing:
            task.cancel()
        for _, engine in self._engines.values():
            await engine.aclose()
        self._engines.clear()
