"""One worker a node of the Ray cluster, in a detached actor that Ray restarts when it dies."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import dspex_ray
from dspex_ray.jobs.worker import Worker, load_build

NAMESPACE = "dspex"
_PREFIX = "worker-"
_RESTART_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class WorkerActor:
    """Holds a Worker on a thread and loop of its own: a job that blocks never blocks Ray's calls.

    The build function reads its settings from the environment of this process: the arguments of
    an actor can be read in the dashboard, so no secret is one.
    """

    def __init__(self, build_path: str, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._worker = Worker(load_build(build_path), name=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout_s: float = 25.0) -> bool:
        """Finish the jobs at hand; whether that was done in `timeout_s`."""
        self._loop.call_soon_threadsafe(self._worker.stop)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._worker.run())
        except BaseException:
            log.exception("the worker could not run; its actor starts anew")
            threading.Event().wait(_RESTART_PAUSE_S)
            os._exit(1)  # Ray restarts an actor whose process ended


@cache
def code_version() -> str:
    """The package's version and a hash of its sources: an actor of other code has another name."""
    digest = hashlib.sha256()
    root = Path(dspex_ray.__file__).parent
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode())
        digest.update(source.read_bytes())
    return f"{dspex_ray.__version__}-{digest.hexdigest()[:8]}"


def worker_name(node_id: str, code: str | None = None) -> str:
    """`code` None is this process's own."""
    return f"{_prefix(node_id)}{code or code_version()}"


def ensure_workers(build_path: str) -> list[str]:
    """Make sure that each alive node has its worker of this code; end those of other code.

    Idempotent and cheap: call it every few seconds, from a process connected to Ray (it blocks
    for some milliseconds). During a rolling update old and new code may each end the other's
    workers once; the jobs they were at are put back. Returns the names of the workers wanted.
    """
    import ray

    existing = {
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(_PREFIX)
    }
    nodes = {worker_name(node["NodeID"]): node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for name in nodes.keys() - existing:
        start_worker(build_path, nodes[name], name)
    for name in existing - nodes.keys():
        _retire(name, node_alive=any(name.startswith(_prefix(node)) for node in nodes.values()))
    return sorted(nodes)


def start_worker(build_path: str, node_id: str, name: str) -> Any:
    """The handle of this node's worker of this name, started if there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(WorkerActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(build_path, name)
    )


def _prefix(node_id: str) -> str:
    return f"{_PREFIX}{node_id[:12]}-"


def _retire(name: str, *, node_alive: bool) -> None:
    """Let the worker finish what it is at, then end its actor. Does not wait."""
    import ray

    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return  # gone meanwhile
    if not node_alive:
        ray.kill(actor)  # it waits for a node that will not come back
        return
    actor.stop.remote()
    actor.__ray_terminate__.remote()  # queued behind `stop`: an actor's calls run in order
