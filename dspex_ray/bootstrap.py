"""Settings to services: the sole wiring. Each process builds its own; nothing here crosses one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from dspex_ray.access.service import KeyService
from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import Conflict, Invalid
from dspex_ray.datasets.importing import ImportService
from dspex_ray.datasets.model import Dataset
from dspex_ray.datasets.service import DatasetService
from dspex_ray.db.engine import Database, Write
from dspex_ray.declarations.service import DeclarationService
from dspex_ray.evaluation.service import EvaluationService
from dspex_ray.evaluation.store import is_under_way
from dspex_ray.models.failure import classify
from dspex_ray.models.health import check_model
from dspex_ray.models.keyring import KeyRing
from dspex_ray.models.model import HealthCheck, Model
from dspex_ray.models.providers import build_engine
from dspex_ray.models.secrets import SecretBox, load_key
from dspex_ray.models.service import Checker, ModelService
from dspex_ray.optimization.service import OptimizationService
from dspex_ray.optimization.store import is_searched_on
from dspex_ray.placements.service import PlacementService, require_placed
from dspex_ray.programs.service import ProgramService
from dspex_ray.programs.store import pinned_by
from dspex_ray.routing.service import AssignmentService
from dspex_ray.serving.engines import TransportFor
from dspex_ray.serving.service import SplitService, VersionTraffic
from dspex_ray.settings import HealthSettings, Settings
from dspex_ray.telemetry.logs import configure_logs
from dspex_ray.traces.service import TraceService


@dataclass(frozen=True)
class Services:
    """Every use case of the control plane."""

    settings: Settings
    clock: Clock
    database: Database
    keyring: KeyRing
    keys: KeyService
    models: ModelService
    programs: ProgramService
    assignments: AssignmentService
    splits: SplitService
    placements: PlacementService
    executions: TraceService
    evaluations: EvaluationService
    datasets: DatasetService
    imports: ImportService
    optimizations: OptimizationService
    declarations: DeclarationService


def read_settings() -> Settings:
    """The settings of this process, from its environment; sets up the logs by them."""
    settings = Settings()
    configure_logs(settings.log_level)
    return settings


def database_of(settings: Settings) -> Database:
    """Raises Invalid when no URL was handed over: only `dspex up` starts a server."""
    if settings.database_url is None:
        raise Invalid(
            "DSPEX_RAY_DATABASE_URL is not set: start the instance with 'dspex up'",
            field="database_url",
            rule="set",
        )
    return Database(settings.database_url.get_secret_value())


def keyring_of(settings: Settings, environment: Mapping[str, str] | None = None) -> KeyRing:
    box = SecretBox(load_key(settings.home, settings.secret_key))
    return KeyRing(box, os.environ if environment is None else environment)


def checker_of(
    settings: HealthSettings,
    clock: Clock,
    transport_for: TransportFor,
    await_hosted: Callable[[Model], Awaitable[None]],
) -> Checker:
    """A checker that builds an engine for one call, so that it tests what a fresh process would."""

    async def check(model: Model, key: SecretStr | None) -> HealthCheck:
        await await_hosted(model)
        try:
            engine = build_engine(model, key, transport=transport_for(model))
        except Exception as error:
            failure = classify(error)
            return HealthCheck(
                model_id=model.id,
                at=clock.now(),
                ok=False,
                latency_ms=0.0,
                error_class=failure.error_class,
                message=failure.message,
            )
        try:
            return await check_model(
                model, engine, settings=settings, clock=clock, price=model.price
            )
        finally:
            await engine.aclose()

    return check


def services_of(
    settings: Settings,
    database: Database,
    keyring: KeyRing,
    checker: Checker,
    clock: Clock | None = None,
    *,
    check_weights: Callable[[str], None] = lambda model_name: None,
) -> Services:
    """`check_weights` raises Invalid for a hosted model whose weights this instance lacks."""
    clock = clock or SystemClock()
    models = ModelService(
        database,
        clock,
        keyring,
        checker,
        allow_private_base_urls=settings.allow_private_base_urls,
        error_cooldown_s=settings.health.error_cooldown_s,
        pinned_by=pinned_by,
        check_weights=check_weights,
    )
    programs = ProgramService(
        database,
        clock,
        allowed_packages=settings.program_packages,
        require_placed=require_placed,
    )
    placements = PlacementService(database, clock, settings.placement, VersionTraffic(clock))
    assignments = AssignmentService(database, clock, programs.require_predictor)
    splits = SplitService(database, clock)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        keyring=keyring,
        keys=KeyService(database, clock),
        models=models,
        programs=programs,
        assignments=assignments,
        splits=splits,
        placements=placements,
        executions=TraceService(database, clock),
        evaluations=EvaluationService(database, clock, allowed_packages=settings.program_packages),
        datasets=DatasetService(database, clock, programs, require_unused=_require_unused),
        imports=ImportService(database, clock, programs, settings.datasets, settings.uploads_dir),
        optimizations=OptimizationService(
            database, clock, settings.optimization, allowed_packages=settings.program_packages
        ),
        declarations=DeclarationService(models, programs, assignments, splits, placements),
    )


async def _require_unused(conn: Write, dataset: Dataset) -> None:
    """Finished evaluations outlive their dataset; one under way still reads it."""
    if await is_under_way(conn, dataset.id):
        raise Conflict(f"dataset {dataset.name!r} is being evaluated: cancel that first")
    if await is_searched_on(conn, dataset.id):
        raise Conflict(f"an optimization is under way on dataset {dataset.name!r}: cancel it first")
