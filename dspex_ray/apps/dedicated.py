"""Versions that run as applications of their own: the deployment, the way to it, its keeper."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import ray
import structlog
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview, ReplicaState
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dspex_ray.apps.replica import Replica
from dspex_ray.bootstrap import read_settings
from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import DspexRayError, Unavailable
from dspex_ray.core.ids import ExecutionId, ProjectId, VersionId, new_id
from dspex_ray.core.noun import Noun
from dspex_ray.placements.model import NewPlacement, Placement, SeenApplication
from dspex_ray.placements.rules import PREFIX, Act, Action, Nodes, plan
from dspex_ray.placements.service import PlacementService
from dspex_ray.placements.store import find_placement
from dspex_ray.serving.dedicated import DedicatedVersion, ReplicaLost
from dspex_ray.serving.looks import Looks
from dspex_ray.serving.runner import of_the_program
from dspex_ray.serving.snapshot import Configuration, Pick
from dspex_ray.settings import PlacementSettings

log = structlog.get_logger()
_DEPLOYMENT = "version"
_SNAPSHOT_S = 30.0
_UPSCALE_DELAY_S = 2.0
_MIN_ONGOING = 16
_WARM_UP_MS = 60_000


class DedicatedArgs(Noun):
    """What a replica is built from; it can be read in the dashboard and holds no content."""

    project_id: ProjectId
    program: str
    number: int
    version_id: VersionId


class DedicatedReplica:
    """The deployment: one version that answers handle calls, and refuses HTTP."""

    async def __init__(self, args: DedicatedArgs) -> None:  # type: ignore[misc]
        """Ready when the program is built and its warm-up inputs have run."""
        self._args = args
        settings, clock = read_settings(), SystemClock()
        self._replica = Replica(settings, clock, "dedicated", configuration=Configuration())
        self._version = DedicatedVersion(self._replica.runner, clock, self._pick)
        self._replica.start()
        try:
            await self._warm_up()
        except BaseException as error:
            await self._replica.stop()
            if isinstance(error, Exception) and not isinstance(error, DspexRayError):
                # Serve shows what a constructor raises, with all that led to it.
                raise of_the_program(error) from None
            raise

    async def run(self, ask: dict[str, Any]) -> dict[str, Any]:
        return await self._version.run(ask)

    async def stream(self, ask: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._version.stream(ask)) as events:
            async for event in events:
                yield event

    async def __call__(self, request: Request) -> Response:
        """Direct ingress would serve this port without a key."""
        return PlainTextResponse("internal deployment: not served over HTTP", status_code=404)

    async def check_health(self) -> None:
        if not self._replica.alive:
            raise Unavailable("this replica no longer follows the configuration")

    async def __del__(self) -> None:
        """Serve calls it when the last request is answered."""
        await self._replica.stop()

    def _pick(self) -> Pick:
        """As the newest snapshot has it, wherever it says that the version runs."""
        args = self._args
        found = self._replica.configuration.snapshot.served(args.project_id, args.program)
        version = found.versions.get(args.number)
        if version is None or version.id != args.version_id:
            raise Unavailable(f"version {args.number} of {args.program!r} is gone")
        return Pick(found.program, version)

    async def _warm_up(self) -> None:
        async with asyncio.timeout(_SNAPSHOT_S):
            await self._replica.loaded()
        async with self._replica.database.read() as conn:
            placement = await find_placement(conn, self._args.version_id)
        await self._replica.runner.prepare(self._pick().version)
        for inputs in () if placement is None else placement.spec.warm_up:
            await self._version.warm_up(inputs, ExecutionId(new_id()), _WARM_UP_MS)


def build(placement: Placement, settings: PlacementSettings) -> Application:
    spec = placement.spec
    deployment = serve.deployment(
        DedicatedReplica,
        name=_DEPLOYMENT,
        autoscaling_config=autoscaling(spec),
        # Above the target: a replica takes more than its share while another one starts.
        max_ongoing_requests=max(_MIN_ONGOING, math.ceil(2 * spec.target_ongoing_requests)),
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options=actor_options(spec),
    )
    return deployment.bind(
        DedicatedArgs(
            project_id=placement.project_id,
            program=placement.program,
            number=placement.version,
            version_id=placement.version_id,
        )
    )


def autoscaling(spec: NewPlacement) -> dict[str, Any]:
    """The first replica is started in any case: it shows that the version can run."""
    return {
        "min_replicas": spec.min_replicas,
        "initial_replicas": max(1, spec.min_replicas),
        "max_replicas": spec.max_replicas,
        "target_ongoing_requests": spec.target_ongoing_requests,
        "upscale_delay_s": _UPSCALE_DELAY_S,
        "downscale_delay_s": spec.downscale_delay_s,
        "metrics_interval_s": 1.0,
        "look_back_period_s": 5.0,
    }


def actor_options(spec: NewPlacement) -> dict[str, Any]:
    resources = spec.resources
    options: dict[str, Any] = {"num_cpus": resources.num_cpus, "resources": resources.custom}
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    runtime_env = spec.runtime_env.as_ray()
    return {**options, "runtime_env": runtime_env} if runtime_env else options


# --- the way to it -------------------------------------------------------------------------


class ServeReplicas:
    """`serving.dedicated.Replicas` by DeploymentHandles, each found once. A lost application
    loses its handle too."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def run(self, application: str, ask: dict[str, Any]) -> dict[str, Any]:
        with self._as_lost(application):
            response = (await self._find(application)).run.remote(ask)
            try:
                answer: dict[str, Any] = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
        return answer

    async def stream(
        self, application: str, ask: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        with self._as_lost(application):
            handle = (await self._find(application)).options(stream=True)
            events = handle.stream.remote(ask)
            try:
                async for event in events:
                    yield event
            finally:
                events.cancel()  # a finished call is not disturbed by it

    async def _find(self, application: str) -> Any:
        if application not in self._handles:
            # It asks the controller, and blocks while it does.
            self._handles[application] = await asyncio.to_thread(serve.get_app_handle, application)
        return self._handles[application]

    @contextmanager
    def _as_lost(self, application: str) -> Iterator[None]:
        try:
            yield
        except TaskCancelledError as error:  # also what Serve makes of its own cancelling
            raise ReplicaLost(begun=True) from error
        except RayServeException as error:  # it is not there, failed to start, or is full
            self._handles.pop(application, None)
            raise ReplicaLost(begun=False) from error
        except RayActorError as error:
            raise ReplicaLost(begun=True) from error


# --- its keeper ----------------------------------------------------------------------------


async def reconcile(service: PlacementService, clock: Clock, looks: Looks) -> None:
    """Make Serve's applications those that are wanted, one step. Idempotent; of several control
    replicas, one at a time does it."""
    async with service.turn() as mine:
        if not mine:
            return
        survey = await service.survey()
        wanted = {placement.application for placement in survey.placements}
        seen, nodes = await asyncio.to_thread(_look, looks, wanted)
        actions = plan(
            survey.placements,
            seen,
            nodes,
            clock.now(),
            start_timeout_s=service.settings.start_timeout_s,
            applied=survey.applied,
        )
        for action in actions:
            await asyncio.to_thread(_carry_out, action, service.settings)
            await service.note(action)


def _look(looks: Looks, wanted: set[str]) -> tuple[dict[str, SeenApplication], Nodes]:
    """The dedicated applications, and what each node alive has in all. Blocks."""
    seen = {
        name: SeenApplication(
            status=application.status.value,
            message=_message(application),
            running=sum(
                deployment.replica_states.get(ReplicaState.RUNNING, 0)
                for deployment in application.deployments.values()
            ),
        )
        for name, application in looks.applications(PREFIX, wanted).items()
    }
    return seen, [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _message(application: ApplicationStatusOverview) -> str:
    """What its deployment says, which is more than the application does."""
    told = [deployment.message for deployment in application.deployments.values()]
    return "\n".join(message for message in told if message) or application.message


def _carry_out(action: Action, settings: PlacementSettings) -> None:
    """The part of an action that Serve does. Blocks, but for no application to be ready."""
    log.info("placement", action=action.act.value, application=action.application)
    if action.act is Act.CREATE and action.placement is not None:
        target = serve.RunTarget(
            target=build(action.placement, settings), name=action.application, route_prefix=None
        )
        serve.run_many([target], wait_for_applications_running=False)
    elif action.act is Act.DELETE:
        serve.delete(action.application, _blocking=False)
