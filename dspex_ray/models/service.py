"""Use cases of the model registry; each is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

from dspex_ray.core.actor import SYSTEM, Actor
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NotFound,
    Stale,
    Unavailable,
)
from dspex_ray.core.ids import ModelId, NewId, ProjectId, new_id
from dspex_ray.core.page import Page
from dspex_ray.db.audit import audit
from dspex_ray.db.configuration import bump
from dspex_ray.db.engine import Database, Write
from dspex_ray.db.move import move
from dspex_ray.db.tables import models as table
from dspex_ray.jobs.app import defer
from dspex_ray.jobs.queues import Queue
from dspex_ray.models import store
from dspex_ray.models.base_urls import check_base_url
from dspex_ray.models.keyring import KeyRing
from dspex_ray.models.model import (
    MODEL_MACHINE,
    CostEstimate,
    ErrorClass,
    HealthCheck,
    Model,
    ModelSpec,
    ModelStatus,
    ModelUpdate,
    Price,
    PriceRevision,
    Provider,
)
from dspex_ray.models.prices import price_of
from dspex_ray.models.providers import read_options
from dspex_ray.models.rules import after_check, check_update
from dspex_ray.models.tokenizers import estimate

CHECK_TASK = "models.health_check"
_PASSING_FOR = timedelta(hours=24)
_BRING_UP_S = 120.0

Checker = Callable[[Model, SecretStr | None], Awaitable[HealthCheck]]
# The program versions that name a model; programs are a room above this one.
PinnedBy = Callable[[Write, ProjectId, str], Awaitable[list[str]]]


class ModelService:
    """The registry. `checker` really calls the provider; it is the only effect outside Postgres."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keyring: KeyRing,
        checker: Checker,
        *,
        allow_private_base_urls: bool,
        error_cooldown_s: float,
        pinned_by: PinnedBy,
        check_weights: Callable[[str], None] = lambda model_name: None,
        ids: NewId = new_id,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keyring = keyring
        self._checker = checker
        self._allow_private = allow_private_base_urls
        self._cooldown_s = error_cooldown_s
        self._pinned_by = pinned_by
        self._check_weights = check_weights
        self._ids = ids

    # --- reading ---------------------------------------------------------------------------

    async def get(self, actor: Actor, name: str) -> Model:
        async with self._database.read() as conn:
            return await store.get_model(conn, actor.project_id, name, self._clock.now())

    async def page(self, actor: Actor, **filters: Any) -> Page[Model]:
        """Filters: status, provider; cursor, limit. In order of name."""
        async with self._database.read() as conn:
            return await store.list_models(conn, actor.project_id, self._clock.now(), **filters)

    async def prices(self, actor: Actor, name: str) -> list[PriceRevision]:
        async with self._database.read() as conn:
            model = await store.get_model(conn, actor.project_id, name, self._clock.now())
            return await store.list_prices(conn, model.id)

    async def checks(self, actor: Actor, name: str, limit: int) -> list[HealthCheck]:
        async with self._database.read() as conn:
            model = await store.get_model(conn, actor.project_id, name, self._clock.now())
            return await store.list_checks(conn, model.id, limit)

    async def estimate_cost(self, actor: Actor, name: str, text: str) -> CostEstimate:
        """Tokens and USD of sending `text` as a prompt; says which tokenizer counted."""
        model = await self.get(actor, name)
        return estimate(model.provider, model.model_name, text, model.price)

    # --- changing --------------------------------------------------------------------------

    async def check_spec(self, spec: ModelSpec) -> None:
        """Raises Invalid, naming the field, for what `register` would refuse."""
        read_options(spec.provider, spec.config)
        if spec.base_url is not None:
            await check_base_url(spec.base_url, allow_private=self._allow_private)
        elif spec.provider is Provider.LOCAL:
            self._check_weights(spec.model_name)

    async def register(
        self,
        actor: Actor,
        spec: ModelSpec,
        *,
        test_on_creation: bool = True,
        managed_by: str | None = None,
    ) -> Model:
        """A new model in state `testing`; its health check is enqueued in the same transaction.

        Raises AlreadyExists, or Invalid naming the field.
        """
        await self.check_spec(spec)
        now = self._clock.now()
        price, source = price_of(spec)
        fields = spec.model_dump(exclude={"api_key", "price", "cost_per_token"})
        env = None if spec.api_key_ref is None else spec.api_key_ref.env
        model = Model(
            id=ModelId(self._ids()),
            project_id=actor.project_id,
            has_api_key=spec.api_key is not None or env is not None,
            price=price,
            price_version=1,
            managed_by=managed_by,
            created_at=now,
            updated_at=now,
            **fields,
        )
        revision = store.revised_price(
            model.model_copy(update={"price_version": 0}), price, source, now
        )
        try:
            async with self._database.write() as conn:
                key = self._keyring.store(spec.api_key, env)
                await store.insert_model(conn, model, key, revision)
                await audit(
                    conn, actor, "model.register", "model", model.name, now=now, after=model
                )
                if test_on_creation:
                    await enqueue_check(conn, model.id)
                await bump(conn)
        except IntegrityError as error:
            raise AlreadyExists(f"a model named {spec.name!r} exists", field="name") from error
        return model

    async def update(
        self,
        actor: Actor,
        name: str,
        change: ModelUpdate,
        *,
        revision: int | None = None,
        managed_by: str | None = None,
    ) -> Model:
        """Change the given fields; a changed price is a new line of the price book.

        `revision` is the one the caller read; Stale when the row has moved on.
        """
        given = change.model_dump(exclude_unset=True)
        if given.get("base_url") is not None:
            await check_base_url(given["base_url"], allow_private=self._allow_private)
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_model(conn, actor.project_id, name, now)
            if revision is not None and revision != before.revision:
                raise Stale(
                    f"model {name!r} is at revision {before.revision}, not {revision}: "
                    "read it again"
                )
            check_update(before.provider, change)
            read_options(before.provider, given.get("config", before.config))
            key, env = await self._changed_key(conn, before, change)
            plain = {
                field: value
                for field, value in given.items()
                if field not in {"api_key", "api_key_ref", "price", "cost_per_token"}
            }
            after = before.model_copy(
                update={
                    **plain,
                    "has_api_key": key.ciphertext is not None or env is not None,
                    "updated_at": now,
                    "managed_by": managed_by or before.managed_by,
                }
            )
            await store.update_model(conn, after, key, before.revision)
            price = _changed_price(change)
            if price is not None and price != before.price:
                await store.insert_price(
                    conn, after, store.revised_price(before, price, "operator", now)
                )
            after = await store.get_model(conn, actor.project_id, name, now)
            await audit(
                conn, actor, "model.update", "model", name, now=now, before=before, after=after
            )
            await bump(conn)
        return after

    async def _changed_key(
        self, conn: Write, before: Model, change: ModelUpdate
    ) -> tuple[store.StoredKey, str | None]:
        key = await store.stored_key(conn, before.id)
        if {"api_key", "api_key_ref"} & change.model_fields_set:
            reference = change.api_key_ref
            key = self._keyring.store(change.api_key, None if reference is None else reference.env)
        return key, key.env

    async def delete(self, actor: Actor, name: str) -> None:
        """Raises Conflict while the model is assigned, or a version in use pins it."""
        now = self._clock.now()
        try:
            async with self._database.write() as conn:
                before = await store.get_model(conn, actor.project_id, name, now)
                await store.delete_model(conn, before)
                # After it, so that a version that was being made with this model is seen.
                pinning = await self._pinned_by(conn, actor.project_id, name)
                if pinning:
                    raise Conflict(
                        f"model {name!r} is pinned by {', '.join(pinning[:10])}: add a version "
                        "without it, move labels and splits to that, or deprecate the model"
                    )
                await audit(conn, actor, "model.delete", "model", name, now=now, before=before)
                await bump(conn)
        except IntegrityError as error:
            raise Conflict(
                f"model {name!r} is assigned to a program or route: unassign it, or deprecate it"
            ) from error

    async def approve(self, actor: Actor, name: str) -> Model:
        """testing -> available. Runs a health check unless one passed within 24 h.

        Raises Conflict with the provider's error class when the check fails.
        """
        model = await self.get(actor, name)
        MODEL_MACHINE.next(model.status, "approve")
        async with self._database.read() as conn:
            recent = await store.list_checks(conn, model.id, 1)
        now = self._clock.now()
        if not (recent and recent[0].ok and now - recent[0].at <= _PASSING_FOR):
            check = await self._check_when_hosted(actor, name)
            hosted = model.provider is Provider.LOCAL and model.base_url is None
            if hosted and check.error_class is ErrorClass.TIMEOUT:
                # Its first answer comes when its weights have been read from the disk.
                check = await self.check(actor, name)
            if not check.ok:
                raise Conflict(
                    f"model {name!r} did not pass its health check: "
                    f"{check.error_class}: {check.message}",
                    error_class=check.error_class,
                )
        return await self._transition(actor, name, "approve")

    async def _check_when_hosted(self, actor: Actor, name: str) -> HealthCheck:
        """A check; of a model that is being brought up here, as soon as it can answer."""
        deadline = self._clock.monotonic() + _BRING_UP_S
        while True:
            try:
                return await self.check(actor, name)
            except Unavailable:
                if self._clock.monotonic() >= deadline:
                    raise
            await asyncio.sleep(0.5)

    async def deprecate(self, actor: Actor, name: str) -> Model:
        return await self._transition(actor, name, "deprecate")

    async def retest(self, actor: Actor, name: str) -> Model:
        """deprecated, error -> testing; a check is enqueued with it."""
        return await self._transition(actor, name, "retest", check=True)

    async def _transition(
        self, actor: Actor, name: str, event: str, *, check: bool = False
    ) -> Model:
        now = self._clock.now()
        async with self._database.write() as conn:
            before = await store.get_model(conn, actor.project_id, name, now)
            await move(conn, table, MODEL_MACHINE, before.id, event, actor=actor, now=now)
            after = await store.get_model(conn, actor.project_id, name, now)
            await audit(
                conn, actor, f"model.{event}", "model", name, now=now, before=before, after=after
            )
            if check:
                await enqueue_check(conn, before.id)
            await bump(conn)
        return after

    # --- health ----------------------------------------------------------------------------

    async def check(self, actor: Actor, name: str) -> HealthCheck:
        """Call the provider now; record what came, and move the model if its checks say so."""
        return await self._check(await self.get(actor, name), actor)

    async def check_by_id(self, model_id: ModelId) -> HealthCheck:
        """As `check`, for jobs. Raises NotFound when the model is gone."""
        async with self._database.read() as conn:
            model = await store.find_model_by_id(conn, model_id, self._clock.now())
        if model is None:
            raise NotFound(f"model {model_id} is gone")
        return await self._check(model, SYSTEM._replace(project_id=model.project_id))

    async def _check(self, model: Model, actor: Actor) -> HealthCheck:
        check = await self._ask_provider(model)
        now = self._clock.now()
        async with self._database.write() as conn:
            current = await store.find_model_by_id(conn, model.id, now)
            if current is None:
                return check  # deleted while it was asked
            counts = await store.insert_check(conn, model.project_id, check, self._ids)
            if actor.name != SYSTEM.name:  # the schedule's own checks are rows enough
                await audit(conn, actor, "model.check", "model", model.name, now=now, after=check)
            events = after_check(
                current.status,
                failed_in_a_row=counts.failed,
                passed_in_a_row=counts.passed,
                in_error_for_s=(now - current.updated_at).total_seconds(),
                cooldown_s=self._cooldown_s,
            )
            status: str = current.status
            for event in events:
                after = await move(
                    conn, table, MODEL_MACHINE, model.id, event, actor=actor, now=now
                )
                await audit(
                    conn,
                    actor,
                    f"model.{event}",
                    "model",
                    model.name,
                    now=now,
                    before={"status": status},
                    after={"status": after},
                )
                status = after
            if events:
                await bump(conn)
        return check

    async def _ask_provider(self, model: Model) -> HealthCheck:
        """A key that cannot be opened is a failed check as well: nobody could call the model."""
        try:
            async with self._database.read() as conn:
                key = self._keyring.open(await store.stored_key(conn, model.id))
        except Invalid as error:
            return HealthCheck(
                model_id=model.id,
                at=self._clock.now(),
                ok=False,
                latency_ms=0.0,
                error_class=ErrorClass.CONFIGURATION,
                message=error.message,
            )
        return await self._checker(model, key)

    async def schedule_checks(self, interval: timedelta) -> int:
        """Enqueue a check for every model whose last one is older than `interval`.

        Models in `error` wait for the cooldown instead.
        """
        now = self._clock.now()
        async with self._database.read() as conn:
            due = await store.due_for_check(
                conn, now - interval, now - timedelta(seconds=self._cooldown_s)
            )
        async with self._database.write() as conn:
            for model_id in due:
                await enqueue_check(conn, model_id)
        return len(due)

    async def request_check(self, model_id: ModelId) -> None:
        """What the router asks for when it sees degradation: one check, however often asked."""
        async with self._database.write() as conn:
            await enqueue_check(conn, model_id)


async def enqueue_check(conn: Write, model_id: ModelId) -> None:
    """At most one waiting check a model, however many ask."""
    await defer(
        conn,
        CHECK_TASK,
        Queue.HEALTH,
        queueing_lock=f"{CHECK_TASK}:{model_id}",
        model_id=str(model_id),
    )


def _changed_price(change: ModelUpdate) -> Price | None:
    if change.price is not None:
        return change.price
    if change.cost_per_token is not None:
        return Price(
            prompt_usd_per_token=change.cost_per_token,
            completion_usd_per_token=change.cost_per_token,
        )
    return None


__all__ = ["CHECK_TASK", "Checker", "ModelService", "ModelStatus", "enqueue_check"]
