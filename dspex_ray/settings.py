"""Settings: one frozen tree, prefix DSPEX_RAY_, nesting by `__`; read once, at a door.

Secrets come by environment or by a file of mode 0600 in the home folder, never by arguments that
Ray's dashboard shows.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Part):
    max_body_bytes: int = Field(default=4_000_000, ge=1_000)
    default_timeout_ms: int = Field(default=60_000, ge=1, description="deadline of a request")
    max_timeout_ms: int = Field(default=600_000, ge=1)
    max_inflight: int = Field(
        default=400, ge=1, description="requests of one replica; more are shed with 503"
    )
    snapshot_poll_s: float = Field(default=5.0, gt=0)
    stats_poll_s: float = Field(default=2.0, gt=0)
    sync_threads: int = Field(default=16, ge=1, description="threads for sync forwards")


class RoutingSettings(_Part):
    retries: int = Field(default=3, ge=0, description="retries after the first attempt")
    retry_base_ms: int = Field(default=250, ge=1)
    retry_max_ms: int = Field(default=8_000, ge=1)
    breaker_failures: int = Field(default=5, ge=1, description="in a row, to open")
    breaker_open_s: float = Field(default=15.0, gt=0, description="before a half-open probe")
    cache_max_bytes: int = Field(
        default=64_000_000, ge=0, description="cached answers of one process; 0 keeps none"
    )
    cache_max_entries: int = Field(default=50_000, ge=1)


class SpoolSettings(_Part):
    rotate_s: float = Field(default=0.25, gt=0)
    rotate_bytes: int = Field(default=1_000_000, ge=1_000)
    max_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    drain_interval_s: float = Field(default=0.25, gt=0)
    batch_records: int = Field(default=1000, ge=1)


class HealthSettings(_Part):
    check_interval_s: int = Field(default=300, ge=10)
    check_timeout_s: float = Field(default=30.0, gt=0)
    check_max_tokens: int = Field(default=8, ge=1, description="the budget of one check")
    error_cooldown_s: int = Field(default=600, ge=0, description="before a retest from 'error'")


class PlacementSettings(_Part):
    start_timeout_s: float = Field(
        default=120.0, gt=0, description="before a dedicated version that does not start has failed"
    )
    drain_timeout_s: float = Field(
        default=60.0, gt=0, description="what requests under way get when its replicas end"
    )
    packages: tuple[str, ...] = Field(
        default=(), description="packages that the pip of a runtime_env may name"
    )
    archives: tuple[str, ...] = Field(
        default=(), description="what addresses of working_dir and py_modules must begin with"
    )


class DatasetSettings(_Part):
    max_row_bytes: int = Field(default=1_000_000, ge=100, description="of one example")
    max_bytes: int = Field(default=1_000_000_000, ge=1_000, description="of one upload")
    max_examples: int = Field(default=1_000_000, ge=1, description="of one version")


class OptimizationSettings(_Part):
    confirm_lm_calls: int = Field(
        default=10_000, ge=0, description="a run that may make more must be confirmed"
    )
    confirm_usd: float = Field(
        default=5.0, ge=0, description="a run that may cost more must be confirmed"
    )
    keep_answers_days: int = Field(
        default=7, ge=0, description="LM answers of failed and cancelled runs, for their resuming"
    )
    actors: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="processes that a run's candidates run in; unset: one on each node",
    )


class RetentionSettings(_Part):
    records_days: int = Field(default=90, ge=1)


class TelemetrySettings(_Part):
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="an OpenTelemetry collector's HTTP endpoint; spans go to its /v1/traces",
    )
    spans_file: bool = Field(default=False, description="spans into home/logs/spans.jsonl")
    sample_ratio: float = Field(
        default=1.0, ge=0, le=1, description="of the requests whose client did not decide"
    )

    @property
    def traces(self) -> bool:
        return self.otlp_endpoint is not None or self.spans_file


class Settings(BaseSettings):
    """`home` holds everything of an instance. `database_url` empty = the embedded Postgres."""

    model_config = SettingsConfigDict(
        env_prefix="DSPEX_RAY_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    home: Path = Path("/var/tmp/dspex-ray")  # noqa: S108 - a data folder, made with mode 0700
    database_url: SecretStr | None = None
    secret_key: SecretStr | None = Field(
        default=None, description="32 bytes, urlsafe base64 (Fernet); else home/secret.key"
    )
    allow_private_base_urls: bool = Field(
        default=False, description="let models live on private or loopback addresses"
    )
    program_packages: tuple[str, ...] = Field(
        default=("dspy",), description="installed packages that program import paths may name"
    )
    gateway: GatewaySettings = GatewaySettings()
    routing: RoutingSettings = RoutingSettings()
    spool: SpoolSettings = SpoolSettings()
    health: HealthSettings = HealthSettings()
    retention: RetentionSettings = RetentionSettings()
    placement: PlacementSettings = PlacementSettings()
    datasets: DatasetSettings = DatasetSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log_level: str = "INFO"

    @property
    def spool_dir(self) -> Path:
        return self.home / "spool"

    @property
    def uploads_dir(self) -> Path:
        """Of files that an upload or import needs while it lasts."""
        return self.home / "uploads"
