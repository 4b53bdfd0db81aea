"""Model: a language model that this project may call, its machine, health and prices."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from dspex_ray.core.ids import ModelId, ProjectId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.states import Machine
from dspex_ray.core.values import Usd


class Provider(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    COHERE = "cohere"
    HUGGINGFACE = "huggingface"
    LOCAL = "local"  #: hosted by this instance, or with a base_url any OpenAI-compatible server
    OPENAI_COMPATIBLE = "openai_compatible"  #: needs a base_url


class ModelStatus(StrEnum):
    TESTING = "testing"
    AVAILABLE = "available"
    DEPRECATED = "deprecated"
    ERROR = "error"


MODEL_MACHINE = Machine(
    "model",
    ModelStatus.TESTING,
    {
        (ModelStatus.TESTING, "approve"): ModelStatus.AVAILABLE,
        (ModelStatus.TESTING, "deprecate"): ModelStatus.DEPRECATED,
        (ModelStatus.AVAILABLE, "deprecate"): ModelStatus.DEPRECATED,
        (ModelStatus.TESTING, "error"): ModelStatus.ERROR,
        (ModelStatus.AVAILABLE, "error"): ModelStatus.ERROR,
        (ModelStatus.DEPRECATED, "retest"): ModelStatus.TESTING,
        (ModelStatus.ERROR, "retest"): ModelStatus.TESTING,
    },
)


class HealthStatus(StrEnum):
    UNKNOWN = "unknown"  #: never checked
    STALE = "stale"  #: last check over 24 h ago
    HEALTHY = "healthy"  #: success rate over 0.95
    DEGRADED = "degraded"  #: over 0.8
    UNHEALTHY = "unhealthy"  #: 0.8 or less, or no success rate


class ErrorClass(StrEnum):
    """Why a call to a provider failed; decides whether it is retried, and what health says."""

    AUTH = "auth"
    BILLING = "billing"
    RATE_LIMIT = "rate_limit"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH = "context_length"
    UNSUPPORTED = "unsupported"  #: the model or the server cannot do what was asked
    TIMEOUT = "timeout"
    SERVER = "server"
    TRANSPORT = "transport"  #: connection refused, reset, cut
    MALFORMED = "malformed"  #: an answer that is not the provider's format
    CONFIGURATION = "configuration"  #: no key, an unknown provider; ours to fix
    CANCELLED = "cancelled"  #: the client went away
    UNEXPECTED = "unexpected"


class KeyReference(Noun):
    """The provider key lies in this environment variable of the server's processes."""

    env: str = Field(pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")


class Price(Noun):
    """USD a token, prompt and completion apart; None = unknown, which is not zero."""

    prompt_usd_per_token: Usd | None = Field(default=None, ge=0)
    completion_usd_per_token: Usd | None = Field(default=None, ge=0)
    cached_prompt_usd_per_token: Usd | None = Field(default=None, ge=0)

    @property
    def known(self) -> bool:
        return self.prompt_usd_per_token is not None and self.completion_usd_per_token is not None


class PriceRevision(Price):
    """A line of the versioned price book. `source` says who set it."""

    version: int
    source: Literal["operator", "shorthand", "catalog", "unknown"]
    effective_at: datetime


class ModelSpec(Noun):
    """What a caller sends to register a model.

    `cost_per_token` is the shorthand for equal prompt and completion prices. The key is given
    inline (`api_key`, encrypted at rest) or as a reference to an environment variable
    (`api_key_ref`), never both. `cache_ttl_s` lets answers to the very same request be replayed
    for so many seconds; null, as it is unless said, never.
    """

    name: Name
    provider: Provider
    model_name: str = Field(min_length=1, max_length=300)
    api_key: SecretStr | None = None
    api_key_ref: KeyReference | None = None
    base_url: str | None = Field(default=None, max_length=2000)
    config: dict[str, Any] = Field(default_factory=dict)
    price: Price | None = None
    cost_per_token: Usd | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    context_window: int | None = Field(default=None, ge=1)
    supports_functions: bool = False
    supports_streaming: bool = False
    requests_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    cache_ttl_s: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_of_each(self) -> ModelSpec:
        if self.api_key is not None and self.api_key_ref is not None:
            raise ValueError("give api_key or api_key_ref, not both")
        if self.price is not None and self.cost_per_token is not None:
            raise ValueError("give price or its shorthand cost_per_token, not both")
        if self.provider is Provider.OPENAI_COMPATIBLE and self.base_url is None:
            raise ValueError("provider 'openai_compatible' needs a base_url")
        return self


class ModelUpdate(Noun):
    """Fields to change; those left out stay. `api_key` null removes the key, `cache_ttl_s` null
    turns the cache off."""

    model_name: str | None = Field(default=None, min_length=1, max_length=300)
    api_key: SecretStr | None = None
    api_key_ref: KeyReference | None = None
    base_url: str | None = Field(default=None, max_length=2000)
    config: dict[str, Any] | None = None
    price: Price | None = None
    cost_per_token: Usd | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    context_window: int | None = Field(default=None, ge=1)
    supports_functions: bool | None = None
    supports_streaming: bool | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float | None = Field(default=None, gt=0, le=600)
    cache_ttl_s: int | None = Field(default=None, ge=1)


class ModelStats(Noun):
    """Fast-moving figures of a model, from its real calls and checks."""

    average_latency_ms: float | None = None  #: EMA, 0.9 old + 0.1 new, successful calls
    success_rate: float | None = Field(default=None, ge=0, le=1)  #: last 200 calls and checks
    last_health_check: datetime | None = None
    consecutive_failed_checks: int = 0
    calls_total: int = 0


class Model(Noun):
    """A registered model as everybody may see it: it says that there is a key, never the key."""

    id: ModelId
    project_id: ProjectId
    name: Name
    provider: Provider
    model_name: str
    has_api_key: bool = False
    api_key_ref: KeyReference | None = None
    base_url: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    status: ModelStatus = ModelStatus.TESTING
    price: Price = Price()
    price_version: int = 0
    max_tokens: int | None = None
    context_window: int | None = None
    supports_functions: bool = False
    supports_streaming: bool = False
    requests_per_minute: int | None = None
    timeout_s: float = 60.0
    cache_ttl_s: int | None = None  #: seconds an answer may be replayed for; None = no cache
    stats: ModelStats = ModelStats()
    health_status: HealthStatus = HealthStatus.UNKNOWN
    managed_by: str | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class HealthCheck(Noun):
    """The outcome of one real call to the provider."""

    model_id: ModelId
    at: datetime
    ok: bool
    latency_ms: float
    error_class: ErrorClass | None = None
    message: str | None = None
    cost_usd: Usd | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class CostQuestion(Noun):
    text: str


class CostEstimate(Noun):
    """Decimal USD, or None when the price is unknown. `tokenizer` names what counted."""

    estimated_tokens: int
    estimated_cost: Usd | None
    currency: Literal["USD"] = "USD"
    tokenizer: str
    exact: bool  #: True when the tokenizer is the model's own
