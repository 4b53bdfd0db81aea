"""Two Serve applications that only answer, for tests of what starts and ends them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from dspex_ray.settings import Settings

_WORKER_BUILD = "dspex_ray.testing.tiny_apps:build_worker"


def build_gateway(args: dict[str, Any]) -> Any:
    """`GET /readyz`, and `GET /home`: the home folder that this replica was given."""
    from ray import serve

    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/home")
    def home() -> dict[str, str]:
        return {"home": str(Settings().home)}

    return serve.deployment(serve.ingress(app)(_Replica), name="TinyGateway").bind()


def build_control(args: dict[str, Any]) -> Any:
    """`GET /workers` (`/api/workers` outside): starts this node's worker, and names it.
    `GET /old-worker` starts one as other code would, and names it."""
    import ray
    from ray import serve

    from dspex_ray.jobs.actor import ensure_workers, start_worker, worker_name

    app = FastAPI()

    @app.get("/workers")
    def workers() -> list[str]:
        return ensure_workers(_WORKER_BUILD)

    @app.get("/old-worker")
    def old_worker() -> str:
        node = ray.get_runtime_context().get_node_id()
        name = worker_name(node, "0.0.0-0000")
        alive: bool = ray.get(start_worker(_WORKER_BUILD, node, name).alive.remote())
        return name if alive else ""

    return serve.deployment(serve.ingress(app)(_Replica), name="TinyControl").bind()


def build_broken(args: dict[str, Any]) -> Any:
    raise ValueError("this application never starts")


class _Replica:
    pass


class _TinyWorker:
    """One task, `tiny.touch`, which makes a file in the home folder."""

    def __init__(self) -> None:
        from dspex_ray.jobs.app import job_app

        settings = Settings()
        assert settings.database_url is not None
        self.app = job_app(settings.database_url.get_secret_value())
        self.background = ()

        @self.app.task(name="tiny.touch")
        async def touch(name: str) -> None:
            (settings.home / name).touch()

    async def close(self) -> None:
        pass


def build_worker() -> _TinyWorker:
    return _TinyWorker()
