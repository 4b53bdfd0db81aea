"""SQL of models, their price book, figures and checks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, delete, func, insert, select, update

from dspex_ray.core.errors import NotFound, Stale
from dspex_ray.core.ids import ModelId, NewId, ProjectId
from dspex_ray.core.page import Page, cursor_position, encode_cursor
from dspex_ray.db.engine import Read, Write
from dspex_ray.db.tables import model_checks, model_prices, model_stats, models
from dspex_ray.models.model import (
    HealthCheck,
    KeyReference,
    Model,
    ModelStats,
    Price,
    PriceRevision,
)
from dspex_ray.models.rules import health_status, next_latency, push_outcomes, success_rate

_MUTABLE = (
    "model_name",
    "base_url",
    "config",
    "max_tokens",
    "context_window",
    "supports_functions",
    "supports_streaming",
    "requests_per_minute",
    "timeout_s",
    "cache_ttl_s",
    "managed_by",
)


class StoredKey(NamedTuple):
    """How a model's key is kept: encrypted bytes, or the name of an environment variable."""

    ciphertext: bytes | None
    env: str | None


_latest = (
    select(model_prices.c.model_id, func.max(model_prices.c.version).label("version"))
    .group_by(model_prices.c.model_id)
    .subquery()
)


def _query() -> Select[Any]:
    return (
        select(
            models,
            model_prices.c.version.label("price_version"),
            model_prices.c.prompt_usd_per_token,
            model_prices.c.completion_usd_per_token,
            model_prices.c.cached_prompt_usd_per_token,
            model_stats.c.average_latency_ms,
            model_stats.c.recent_outcomes,
            model_stats.c.last_health_check,
            model_stats.c.consecutive_failed_checks,
            model_stats.c.calls_total,
        )
        .join(_latest, _latest.c.model_id == models.c.id)
        .join(
            model_prices,
            (model_prices.c.model_id == models.c.id)
            & (model_prices.c.version == _latest.c.version),
        )
        .join(model_stats, model_stats.c.model_id == models.c.id)
    )


def _stats(row: Row[Any]) -> ModelStats:
    return ModelStats(
        average_latency_ms=row.average_latency_ms,
        success_rate=success_rate(row.recent_outcomes),
        last_health_check=row.last_health_check,
        consecutive_failed_checks=row.consecutive_failed_checks,
        calls_total=row.calls_total,
    )


def _model(row: Row[Any], now: datetime) -> Model:
    stats = _stats(row)
    return Model(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        provider=row.provider,
        model_name=row.model_name,
        has_api_key=row.api_key_ciphertext is not None or row.api_key_env is not None,
        api_key_ref=None if row.api_key_env is None else KeyReference(env=row.api_key_env),
        base_url=row.base_url,
        config=row.config,
        status=row.status,
        price=Price(
            prompt_usd_per_token=row.prompt_usd_per_token,
            completion_usd_per_token=row.completion_usd_per_token,
            cached_prompt_usd_per_token=row.cached_prompt_usd_per_token,
        ),
        price_version=row.price_version,
        max_tokens=row.max_tokens,
        context_window=row.context_window,
        supports_functions=row.supports_functions,
        supports_streaming=row.supports_streaming,
        requests_per_minute=row.requests_per_minute,
        timeout_s=row.timeout_s,
        cache_ttl_s=row.cache_ttl_s,
        stats=stats,
        health_status=health_status(stats, now),
        managed_by=row.managed_by,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def insert_model(conn: Write, model: Model, key: StoredKey, price: PriceRevision) -> None:
    """The model, the first line of its price book, and its empty figures."""
    values = {name: getattr(model, name) for name in _MUTABLE}
    await conn.execute(
        insert(models).values(
            id=model.id,
            project_id=model.project_id,
            name=model.name,
            provider=model.provider,
            status=model.status,
            api_key_ciphertext=key.ciphertext,
            api_key_env=key.env,
            created_at=model.created_at,
            updated_at=model.updated_at,
            **values,
        )
    )
    await insert_price(conn, model, price)
    await conn.execute(
        insert(model_stats).values(
            model_id=model.id, project_id=model.project_id, recent_outcomes=""
        )
    )


async def insert_price(conn: Write, model: Model, price: PriceRevision) -> None:
    await conn.execute(
        insert(model_prices).values(
            model_id=model.id, project_id=model.project_id, **price.model_dump()
        )
    )


async def get_model(conn: Read | Write, project_id: ProjectId, name: str, now: datetime) -> Model:
    """Raises NotFound."""
    query = _query().where(models.c.project_id == project_id, models.c.name == name)
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"no model {name!r} in this project", kind="model", name=name)
    return _model(row, now)


async def find_model_by_id(conn: Read | Write, model_id: ModelId, now: datetime) -> Model | None:
    row = (await conn.execute(_query().where(models.c.id == model_id))).first()
    return None if row is None else _model(row, now)


async def list_models(
    conn: Read,
    project_id: ProjectId,
    now: datetime,
    *,
    status: str | None,
    provider: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Model]:
    query = _query().where(models.c.project_id == project_id).order_by(models.c.name)
    if status is not None:
        query = query.where(models.c.status == status)
    if provider is not None:
        query = query.where(models.c.provider == provider)
    if cursor is not None:
        query = query.where(models.c.name > cursor_position(cursor, str))
    rows = (await conn.execute(query.limit(limit + 1))).all()
    items = [_model(row, now) for row in rows[:limit]]
    return Page(
        items=items, next_cursor=encode_cursor(items[-1].name) if len(rows) > limit else None
    )


async def every_model(conn: Read, now: datetime) -> list[tuple[Model, StoredKey]]:
    """All projects' models with how their keys are kept: for snapshots and reconcilers."""
    rows = await conn.execute(_query())
    return [(_model(row, now), StoredKey(row.api_key_ciphertext, row.api_key_env)) for row in rows]


async def every_stats(conn: Read) -> dict[ModelId, ModelStats]:
    rows = await conn.execute(select(model_stats))
    return {ModelId(row.model_id): _stats(row) for row in rows}


async def stored_key(conn: Read | Write, model_id: ModelId) -> StoredKey:
    row = (
        await conn.execute(
            select(models.c.api_key_ciphertext, models.c.api_key_env).where(models.c.id == model_id)
        )
    ).one()
    return StoredKey(row.api_key_ciphertext, row.api_key_env)


async def update_model(conn: Write, model: Model, key: StoredKey, expected_revision: int) -> None:
    """Write the mutable fields; raises Stale when the row is past `expected_revision`."""
    values = {name: getattr(model, name) for name in _MUTABLE}
    changed = await conn.execute(
        update(models)
        .where(
            models.c.id == model.id,
            models.c.project_id == model.project_id,
            models.c.revision == expected_revision,
        )
        .values(
            **values,
            api_key_ciphertext=key.ciphertext,
            api_key_env=key.env,
            updated_at=model.updated_at,
            revision=models.c.revision + 1,
        )
        .returning(models.c.id)
    )
    if changed.first() is None:
        raise Stale(f"model {model.name!r} is past revision {expected_revision}: read it again")


async def delete_model(conn: Write, model: Model) -> None:
    await conn.execute(
        delete(models).where(models.c.id == model.id, models.c.project_id == model.project_id)
    )


async def hold_names(conn: Write, project_id: ProjectId, names: Collection[str]) -> set[str]:
    """Those of the names that are registered; none is deleted until the transaction ends."""
    rows = await conn.execute(
        select(models.c.name)
        .where(models.c.project_id == project_id, models.c.name.in_(names))
        .with_for_update(read=True, key_share=True)
    )
    return {row.name for row in rows}


async def list_prices(conn: Read, model_id: ModelId) -> list[PriceRevision]:
    """The price book, newest first."""
    rows = await conn.execute(
        select(model_prices)
        .where(model_prices.c.model_id == model_id)
        .order_by(model_prices.c.version.desc())
    )
    return [
        PriceRevision(
            version=row.version,
            source=row.source,
            effective_at=row.effective_at,
            prompt_usd_per_token=row.prompt_usd_per_token,
            completion_usd_per_token=row.completion_usd_per_token,
            cached_prompt_usd_per_token=row.cached_prompt_usd_per_token,
        )
        for row in rows
    ]


class CheckCounts(NamedTuple):
    """Consecutive checks, this one included."""

    failed: int
    passed: int


async def insert_check(
    conn: Write, project_id: ProjectId, check: HealthCheck, ids: NewId
) -> CheckCounts:
    """The check's row, and its part in the model's figures."""
    await conn.execute(
        insert(model_checks).values(id=ids(), project_id=project_id, **check.model_dump())
    )
    mine = model_stats.c.model_id == check.model_id
    row = (await conn.execute(select(model_stats).where(mine).with_for_update())).one()
    counts = CheckCounts(
        failed=0 if check.ok else row.consecutive_failed_checks + 1,
        passed=row.consecutive_passed_checks + 1 if check.ok else 0,
    )
    average = row.average_latency_ms
    await conn.execute(
        update(model_stats)
        .where(mine)
        .values(
            recent_outcomes=push_outcomes(row.recent_outcomes, "1" if check.ok else "0"),
            average_latency_ms=next_latency(average, check.latency_ms) if check.ok else average,
            last_health_check=check.at,
            consecutive_failed_checks=counts.failed,
            consecutive_passed_checks=counts.passed,
        )
    )
    return counts


async def list_checks(conn: Read, model_id: ModelId, limit: int) -> list[HealthCheck]:
    """Newest first."""
    rows = await conn.execute(
        select(model_checks)
        .where(model_checks.c.model_id == model_id)
        .order_by(model_checks.c.id.desc())
        .limit(limit)
    )
    fields = HealthCheck.model_fields
    return [
        HealthCheck.model_validate({name: row._mapping[name] for name in fields}) for row in rows
    ]


async def due_for_check(conn: Read, before: datetime, in_error_since: datetime) -> list[ModelId]:
    """Models never checked, or last checked before `before`.

    Not those that are deprecated, nor those that came into `error` after `in_error_since`.
    """
    rows = await conn.execute(
        select(models.c.id)
        .join(model_stats, model_stats.c.model_id == models.c.id)
        .where(
            models.c.status != "deprecated",
            (models.c.status != "error") | (models.c.updated_at <= in_error_since),
            model_stats.c.last_health_check.is_(None) | (model_stats.c.last_health_check < before),
        )
        .order_by(models.c.id)
    )
    return [ModelId(row.id) for row in rows]


def revised_price(model: Model, price: Price, source: str, now: datetime) -> PriceRevision:
    """The next line of the model's price book."""
    return PriceRevision.model_validate(
        {
            **price.model_dump(include=set(Price.model_fields)),
            "version": model.price_version + 1,
            "source": source,
            "effective_at": now,
        }
    )
