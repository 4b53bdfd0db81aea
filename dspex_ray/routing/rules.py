"""Which assignment serves a call, which come after it, and why each other one was passed over."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from dspex_ray.core.errors import Conflict, Unavailable
from dspex_ray.core.ids import AssignmentId, ModelId
from dspex_ray.models.model import HealthStatus, Model, ModelStatus
from dspex_ray.models.rules import health_status
from dspex_ray.routing.model import Loss, Lost, ProgramModel, RoutingStrategy

_DIRECT = AssignmentId(UUID(int=0))
UNMEASURED_LATENCY_MS = 1000.0
UNMEASURED_SUCCESS_RATE = 0.5

# Unknown counts as degraded: a model that was just approved is not passed over.
_HEALTH_ORDER = {
    HealthStatus.HEALTHY: 0,
    HealthStatus.DEGRADED: 1,
    HealthStatus.UNKNOWN: 1,
    HealthStatus.STALE: 2,
    HealthStatus.UNHEALTHY: 3,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An assignment with its model. `estimate_cost` gives USD for this call, None = unknown."""

    assignment: ProgramModel
    model: Model
    estimate_cost: Callable[[], Decimal | None]

    @property
    def assignment_id(self) -> AssignmentId | None:
        """None when the caller named the model itself and no assignment was asked."""
        named = self.assignment.program_id is None and self.assignment.route is None
        return None if named else self.assignment.id


@dataclass(frozen=True, slots=True)
class Selection:
    """`chain`: the fallbacks to try after `choice`, in order. `losers`: every other candidate.

    `check_requested`: models that the choice rests on although their health is in doubt.
    """

    choice: Candidate
    chain: tuple[Candidate, ...]
    losers: tuple[Lost, ...]
    check_requested: tuple[ModelId, ...] = ()


def applicable(
    assigned: Sequence[tuple[ProgramModel, Model]], predictor: str | None
) -> list[tuple[ProgramModel, Model]]:
    """The predictor's own assignments if there is one, else those of the whole program."""
    own = [pair for pair in assigned if predictor and pair[0].predictor == predictor]
    return own or [pair for pair in assigned if pair[0].predictor is None]


def direct(model: Model, now: datetime, predictor: str | None = None) -> ProgramModel:
    """The assignment that a caller makes by naming the model itself: it has no row."""
    return ProgramModel(
        id=_DIRECT,
        project_id=model.project_id,
        predictor=predictor,
        model_id=model.id,
        model_name=model.name,
        created_at=now,
        updated_at=now,
    )


def under_pins(
    pins: Sequence[ProgramModel], assignments: Sequence[ProgramModel]
) -> list[ProgramModel]:
    """A program's assignments under the pins of a version, as `applicable` takes them.

    A pin is a `direct` assignment: of a predictor, or of all that have none of their own. It is
    the sole primary of its predictor. What would be applicable without it follows as fallbacks,
    under the conditions that it has: primaries first, then by priority; the pinned model itself
    is left out.
    """
    own = {pin.predictor: pin for pin in pins}
    rows: list[ProgramModel] = []
    for predictor in dict.fromkeys([*own, *(row.predictor for row in assignments)]):
        pin = own.get(predictor, own.get(None))
        mine = [row for row in assignments if row.predictor == predictor]
        if pin is None:
            rows += mine
            continue
        rows.append(pin.model_copy(update={"predictor": predictor}))
        following = mine or [row for row in assignments if row.predictor is None]
        following.sort(key=_primaries_first)
        rows += [
            row.model_copy(
                update={
                    "predictor": predictor,
                    "routing_strategy": RoutingStrategy.FALLBACK,
                    "priority": -place,
                }
            )
            for place, row in enumerate(following, 1)
            if row.model_id != pin.model_id
        ]
    return rows


def _primaries_first(row: ProgramModel) -> tuple[bool, int, int]:
    return row.routing_strategy is not RoutingStrategy.PRIMARY, -row.priority, row.id.int


def select_model(
    assignments: Sequence[Candidate],
    inputs: Mapping[str, Any],
    context: Mapping[str, Any],
    now: datetime,
    rng: random.Random,
) -> Selection:
    """The choice for one call. Raises Conflict without assignments, Unavailable without a model.

    1. Eligible is whose model is available and whose conditions hold. When none is, the first
       with an available model serves, its conditions ignored.
    2. The first eligible primary serves. When its model is unhealthy or stale, the first
       eligible fallback that is not unhealthy serves instead, if there is one.
    3. Without a primary: the cheapest of the cost-optimized, else the fastest of the
       latency-optimized, else one of the load-balanced by weight, else the first.

    "First" is by priority, highest first, then by id. A tie of cost or latency goes to it too.
    """
    if not assignments:
        raise Conflict("No models configured for program")
    return _Choosing(assignments, inputs, context, now, rng).selection()


class _Choosing:
    """One decision: what has been worked out so far about each candidate, by its position."""

    def __init__(
        self,
        assignments: Sequence[Candidate],
        inputs: Mapping[str, Any],
        context: Mapping[str, Any],
        now: datetime,
        rng: random.Random,
    ) -> None:
        self.candidates = sorted(
            assignments, key=lambda c: (-c.assignment.priority, c.assignment.id.int)
        )
        self.inputs = inputs
        self.context = context
        self.now = now
        self.rng = rng
        self.costs: dict[int, Decimal | None] = {}
        self.health: dict[int, HealthStatus] = {}
        self.input_size: int | None = None
        self.losses: dict[int, Loss] = {}
        self.check_requested: tuple[ModelId, ...] = ()

    def selection(self) -> Selection:
        eligible = []
        for index in range(len(self.candidates)):
            loss = self._ineligible(index)
            if loss is None:
                eligible.append(index)
            else:
                self.losses[index] = loss
        chosen = self._choose(eligible) if eligible else self._first_available()
        return Selection(
            choice=self.candidates[chosen],
            chain=self._chain(eligible, chosen),
            losers=tuple(
                _lost(c.assignment.model_name, c.assignment.routing_strategy, self.losses[index])
                for index, c in enumerate(self.candidates)
                if index != chosen
            ),
            check_requested=self.check_requested,
        )

    def _ineligible(self, index: int) -> Loss | None:
        candidate = self.candidates[index]
        if candidate.model.status is not ModelStatus.AVAILABLE:
            return Loss.NOT_AVAILABLE
        conditions = candidate.assignment.conditions
        if conditions.input_size_max is not None and self._size() > conditions.input_size_max:
            return Loss.INPUT_TOO_LARGE
        needed = conditions.context_required
        if needed is not None and needed not in self.context:
            return Loss.CONTEXT_MISSING
        if conditions.cost_limit is not None:
            cost = self._cost(index)
            if cost is None:
                return Loss.COST_UNKNOWN
            if cost > conditions.cost_limit:
                return Loss.COST_OVER_LIMIT
        return None

    def _first_available(self) -> int:
        for index, candidate in enumerate(self.candidates):
            if candidate.model.status is ModelStatus.AVAILABLE:
                return index
        states = ", ".join(f"{c.model.name} is {c.model.status}" for c in self.candidates)
        raise Unavailable(f"No available models: {states}")

    def _choose(self, eligible: list[int]) -> int:
        primaries = self._of(eligible, RoutingStrategy.PRIMARY)
        if primaries:
            return self._gated(primaries[0], eligible)
        if group := self._of(eligible, RoutingStrategy.COST_OPTIMIZED):
            return self._take(min(group, key=self._price_order), group, Loss.COSTLIER, eligible)
        if group := self._of(eligible, RoutingStrategy.LATENCY_OPTIMIZED):
            return self._take(min(group, key=self._latency), group, Loss.SLOWER, eligible)
        if group := self._of(eligible, RoutingStrategy.LOAD_BALANCED):
            return self._take(self._draw(group), group, Loss.NOT_DRAWN, eligible)
        return self._take(eligible[0], eligible, Loss.LOWER_PRIORITY, eligible)

    def _gated(self, primary: int, eligible: list[int]) -> int:
        """The primary, or what its health makes of it."""
        primaries = self._of(eligible, RoutingStrategy.PRIMARY)
        health = self._health(primary)
        if health in (HealthStatus.UNHEALTHY, HealthStatus.STALE):
            fallbacks = self._of(eligible, RoutingStrategy.FALLBACK)
            sound = [i for i in fallbacks if self._health(i) is not HealthStatus.UNHEALTHY]
            if sound:
                self._take(sound[0], [*primaries, *fallbacks], Loss.LOWER_PRIORITY, eligible)
                passed = [primary, *(i for i in fallbacks if i < sound[0])]
                self.losses.update(dict.fromkeys(passed, Loss.UNHEALTHY))
                return sound[0]
        elif health is not HealthStatus.HEALTHY:
            self.check_requested = (self.candidates[primary].model.id,)
        return self._take(primary, primaries, Loss.LOWER_PRIORITY, eligible)

    def _take(self, chosen: int, group: list[int], reason: Loss, eligible: list[int]) -> int:
        """Note why the others lost: `reason` inside the group, another strategy outside."""
        self.losses.update(dict.fromkeys(eligible, Loss.OTHER_STRATEGY))
        self.losses.update(dict.fromkeys(group, reason))
        return chosen

    def _chain(self, eligible: list[int], chosen: int) -> tuple[Candidate, ...]:
        rest = [i for i in self._of(eligible, RoutingStrategy.FALLBACK) if i != chosen]
        rest.sort(key=lambda i: _HEALTH_ORDER[self._health(i)])
        return tuple(self.candidates[i] for i in rest)

    def _of(self, eligible: list[int], strategy: RoutingStrategy) -> list[int]:
        return [i for i in eligible if self.candidates[i].assignment.routing_strategy is strategy]

    def _draw(self, group: list[int]) -> int:
        weights = [self._weight(index) for index in group]
        total = sum(weights)
        if total <= 0:
            return group[int(self.rng.random() * len(group))]
        point, reached = self.rng.random() * total, 0.0
        for index, weight in zip(group, weights, strict=True):
            reached += weight
            if point < reached:
                return index
        return max(zip(weights, group, strict=True))[1]  # rounding left the point at the total

    def _weight(self, index: int) -> float:
        rate = self.candidates[index].model.stats.success_rate
        weight = self.candidates[index].assignment.weight
        return weight * (UNMEASURED_SUCCESS_RATE if rate is None else rate)

    def _price_order(self, index: int) -> tuple[bool, Decimal]:
        cost = self._cost(index)
        return (cost is None, cost or Decimal(0))

    def _latency(self, index: int) -> float:
        latency = self.candidates[index].model.stats.average_latency_ms
        return UNMEASURED_LATENCY_MS if latency is None else latency

    def _cost(self, index: int) -> Decimal | None:
        if index not in self.costs:
            self.costs[index] = self.candidates[index].estimate_cost()
        return self.costs[index]

    def _health(self, index: int) -> HealthStatus:
        if index not in self.health:
            self.health[index] = health_status(self.candidates[index].model.stats, self.now)
        return self.health[index]

    def _size(self) -> int:
        """Characters of the inputs as compact JSON; what JSON cannot hold counts as its text."""
        if self.input_size is None:
            text = json.dumps(self.inputs, ensure_ascii=False, separators=(",", ":"), default=str)
            self.input_size = len(text)
        return self.input_size


@lru_cache(maxsize=4096)
def _lost(model: str, strategy: RoutingStrategy, reason: Loss) -> Lost:
    """Shared: making one takes longer than deciding about it."""
    return Lost(model=model, strategy=strategy, reason=reason)
