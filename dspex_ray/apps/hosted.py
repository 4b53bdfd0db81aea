"""Models that this instance hosts: their Serve application, and the way to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dspex_ray.core.errors import Unavailable
from dspex_ray.models.model import Model, ModelStatus
from dspex_ray.serving.affinity import Affinity, beginning_of
from dspex_ray.serving.handle_transport import HandleTransport
from dspex_ray.serving.hosting import PREFIX, HostedModel, application_names, hosting, is_hosted
from dspex_ray.serving.llama import PACKAGED, LlamaModel, LlamaOptions, find_weights
from dspex_ray.serving.looks import Looks
from dspex_ray.settings import Settings

log = structlog.get_logger()


class ModelHost:
    """The deployment: a llama.cpp model that answers handle calls, and refuses HTTP."""

    def __init__(self, config: HostedModel) -> None:
        weights = find_weights(config.weights, Settings().home)
        asked = config.options
        self._model = LlamaModel(
            config.name,
            Path(weights),
            LlamaOptions(
                n_ctx=config.context_window * asked.parallel,
                n_parallel=asked.parallel,
                n_ubatch=asked.prompt_batch,
                thinks=config.weights not in PACKAGED,
            ),
        )

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._model.chat(body)

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        async for piece in self._model.chat_stream(body):
            yield piece

    async def __call__(self, request: Request) -> Response:
        """Direct ingress would serve this port without a key."""
        return PlainTextResponse("internal deployment: not served over HTTP", status_code=404)


def build(config: HostedModel) -> Application:
    deployment = serve.deployment(
        ModelHost,
        name="host",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=64,
        graceful_shutdown_timeout_s=10,
        health_check_period_s=5,
    )
    return deployment.bind(config)


class ServeHost:
    """A ChatHost by DeploymentHandles, one of each replica, found on first use. Which one gets a
    call is decided here: Serve takes no router of ours for applications that HAProxy knows."""

    def __init__(self, applications: Sequence[str]) -> None:
        self._handles: dict[str, Any] = dict.fromkeys(applications)
        self._under_way: Counter[str] = Counter()
        self._affinity = Affinity()

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self._chosen(body) as handle:
            answer: dict[str, Any] = await handle.chat.remote(body)
            return answer

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        async with self._chosen(body) as handle:
            pieces = handle.options(stream=True).chat_stream.remote(body)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                pieces.cancel()  # a finished call is not disturbed by it

    @asynccontextmanager
    async def _chosen(self, body: dict[str, Any]) -> AsyncIterator[Any]:
        beginning = beginning_of(body)
        waiting = {name: self._under_way[name] for name in self._handles}
        name = self._affinity.choose(beginning, waiting)
        self._under_way[name] += 1
        try:
            yield await self._find(name)
        finally:
            self._under_way[name] -= 1

    async def _find(self, name: str) -> Any:
        if self._handles[name] is None:
            try:
                # It asks the controller, and blocks while it does.
                self._handles[name] = await asyncio.to_thread(serve.get_app_handle, name)
            except Exception as error:
                raise Unavailable(f"{name!r} is not running yet", retry_after_s=2) from error
        return self._handles[name]


def hosted_transport(model: Model) -> HandleTransport | None:
    """The way to a hosted model; None for a model that has an address."""
    if not is_hosted(model):
        return None
    return HandleTransport(ServeHost(application_names(model)), read_timeout_s=model.timeout_s)


async def await_hosted(model: Model) -> None:
    """Return when a check of the model makes sense: it has an address, it runs, or it cannot.

    Raises Unavailable while its host is on its way: that says nothing about the model.
    """
    if not is_hosted(model):
        return
    applications = (await asyncio.to_thread(serve.status)).applications
    for name in application_names(model):
        status = applications[name].status.value if name in applications else "NOT_STARTED"
        if status in {"NOT_STARTED", "DEPLOYING"}:
            raise Unavailable(f"{name!r} is {status}: its model is checked when it runs")


def reconcile(models: list[Model], looks: Looks) -> None:
    """Make Serve's hosted applications those that the registry wants. Blocks; idempotent."""
    wanted = {
        name: hosting(model)
        for model in models
        if is_hosted(model) and model.status is not ModelStatus.DEPRECATED
        for name in application_names(model)
    }
    found = looks.applications(PREFIX, wanted)
    present = {name: application.status.value for name, application in found.items()}
    for name, config in wanted.items():
        if name not in present:
            log.info("hosting a model", application=name, weights=config.weights)
            target = serve.RunTarget(target=build(config), name=name, route_prefix=None)
            serve.run_many([target], wait_for_applications_running=False)
    for name, status in present.items():
        if name not in wanted and status != "DELETING":
            log.info("a hosted model is no longer wanted", application=name)
            serve.delete(name, _blocking=False)
