"""ProgramModel (an assignment), routing strategies, and the record of a decision."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from dspex_ray.core.ids import AssignmentId, ModelId, ProgramId, ProjectId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.values import Usd
from dspex_ray.models.model import ErrorClass


class RoutingStrategy(StrEnum):
    PRIMARY = "primary"
    FALLBACK = "fallback"
    LOAD_BALANCED = "load_balanced"
    COST_OPTIMIZED = "cost_optimized"
    LATENCY_OPTIMIZED = "latency_optimized"


class Conditions(Noun):
    """When an assignment may serve a call; an unknown condition is refused when assigned."""

    input_size_max: int | None = Field(default=None, ge=0)  #: characters of the inputs as JSON
    context_required: str | None = Field(default=None, min_length=1)  #: a key of the context
    cost_limit: Usd | None = Field(default=None, ge=0)  #: USD, the estimate for this call


class NewAssignment(Noun):
    """`model` by name. `predictor` None serves the whole program."""

    model: Name
    predictor: str | None = None
    routing_strategy: RoutingStrategy = RoutingStrategy.PRIMARY
    priority: int = 0
    weight: int = Field(default=100, ge=0, le=1_000_000)
    conditions: Conditions = Conditions()


class AssignmentUpdate(Noun):
    routing_strategy: RoutingStrategy | None = None
    priority: int | None = None
    weight: int | None = Field(default=None, ge=0, le=1_000_000)
    conditions: Conditions | None = None


class ProgramModel(Noun):
    """An assignment of a model to a program, to one of its predictors, or to a named route."""

    id: AssignmentId
    project_id: ProjectId
    program_id: ProgramId | None = None
    route: Name | None = None
    predictor: str | None = None
    model_id: ModelId
    model_name: str  #: the registered name of the model
    routing_strategy: RoutingStrategy = RoutingStrategy.PRIMARY
    priority: int = 0
    weight: int = 100
    conditions: Conditions = Conditions()
    total_requests: int = 0
    successful_requests: int = 0
    total_cost: Usd = Decimal(0)
    managed_by: str | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class Loss(StrEnum):
    """Why a candidate was not chosen."""

    NOT_AVAILABLE = "model is not available"
    INPUT_TOO_LARGE = "input_size_max exceeded"
    CONTEXT_MISSING = "context_required is not in the context"
    COST_OVER_LIMIT = "estimated cost over cost_limit"
    COST_UNKNOWN = "cost_limit set and the price is unknown"
    UNHEALTHY = "health gate"
    LOWER_PRIORITY = "lower priority"
    OTHER_STRATEGY = "another strategy comes first"
    COSTLIER = "not the cheapest"
    SLOWER = "not the fastest"
    NOT_DRAWN = "not drawn by weight"


class Lost(Noun):
    """One candidate that was passed over, and why."""

    model: str
    strategy: RoutingStrategy
    reason: Loss


class Attempt(Noun):
    """One call to one model, as it went. Token counts and costs (USD) None = unknown."""

    model_id: ModelId
    model: str
    assignment_id: AssignmentId | None = None
    number: int = Field(ge=1)  #: 1 for the first attempt on this model
    outcome: Literal["ok", "failed", "skipped", "cancelled"]
    error_class: ErrorClass | None = None
    message: str | None = None  #: never content, never a key
    latency_ms: float
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Usd | None = None
    cost_source: Literal["measured", "estimated", "unknown", "cached"] = "unknown"
    price_version: int = 0
    started_at: datetime
    provider_status: int | None = None
    retry_after_s: float | None = None
    cached: bool = False  #: answered from the response cache: the model was not called

    @property
    def made(self) -> bool:
        """Whether the model was called."""
        return self.outcome != "skipped" and not self.cached


class LmCall(Noun):
    """One logical call of a predictor: the decision, its attempts, the sums.

    `request` and `response` are content (lm15 JSON); they are kept only as the program's
    capture policy says.
    """

    predictor: str | None = None
    strategy: RoutingStrategy | None = None  #: of the chosen assignment
    chosen: str | None = None  #: name of the chosen model
    answered_by: str | None = None  #: name of the model that answered; None when none did
    losers: tuple[Lost, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    stream: bool = False
    started_at: datetime
    latency_ms: float
    usage: dict[str, Any] = Field(default_factory=dict)  #: raw, as the provider gave it
    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None

    @property
    def fallback(self) -> bool:
        return self.answered_by is not None and self.answered_by != self.chosen
