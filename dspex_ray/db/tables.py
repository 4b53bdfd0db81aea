"""The whole schema, in one readable file. Every table belongs to a project.

Status columns change only through `db.move`. Rows that a person can edit have a `revision`
(their ETag). Tables whose records arrive from spools are partitioned by day; the day derives
from the record's UUIDv7.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

MONEY = Numeric(20, 12)  # USD; a token can cost 1e-8, a month 1e7
TIME = DateTime(timezone=True)


def _id() -> Column[object]:
    return Column("id", UUID(as_uuid=True), primary_key=True)


def _project() -> Column[object]:
    return Column("project_id", UUID(as_uuid=True), ForeignKey("projects.id"), nullable=False)


def _times() -> tuple[Column[object], Column[object]]:
    return (
        Column("created_at", TIME, nullable=False),
        Column("updated_at", TIME, nullable=False),
    )


def _revision() -> Column[object]:
    return Column("revision", Integer, nullable=False, server_default=text("1"))


# --- the house -----------------------------------------------------------------------------

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", TIME, nullable=False),
)

# One row. Every transaction that changes what the data plane reads adds 1, as its last statement.
configuration = Table(
    "configuration",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

api_keys = Table(
    "api_keys",
    metadata,
    _id(),
    _project(),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, unique=True),  # loggable; finds the row
    Column("hash", LargeBinary, nullable=False),  # SHA-256 of a 256-bit random secret
    Column("scopes", ARRAY(Text), nullable=False),
    Column("requests_per_minute", Integer),
    Column("created_at", TIME, nullable=False),
    Column("expires_at", TIME),
    Column("revoked_at", TIME),
    Index(
        "uq_api_keys_live_name",
        "project_id",
        "name",
        unique=True,
        postgresql_where=text("revoked_at IS NULL"),
    ),
)

# Written by every mutation, in its own transaction; secrets masked.
audit_events = Table(
    "audit_events",
    metadata,
    _id(),
    _project(),
    Column("at", TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),  # "model.register", "split.put", ...
    Column("resource_kind", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Index("ix_audit_events_resource", "project_id", "resource_kind", "resource_id", "id"),
)

# Written by db.move: one row a transition.
state_events = Table(
    "state_events",
    metadata,
    _id(),
    _project(),
    Column("resource_kind", Text, nullable=False),
    Column("resource_id", UUID(as_uuid=True), nullable=False),
    Column("event", Text, nullable=False),
    Column("from_state", Text, nullable=False),
    Column("to_state", Text, nullable=False),
    Column("at", TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Index("ix_state_events_resource", "resource_kind", "resource_id", "id"),
)

# --- models --------------------------------------------------------------------------------

models = Table(
    "models",
    metadata,
    _id(),
    _project(),
    Column("name", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("api_key_ciphertext", LargeBinary),  # Fernet, key from settings
    Column("api_key_env", Text),
    Column("base_url", Text),
    Column("config", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("max_tokens", Integer),
    Column("context_window", Integer),
    Column("supports_functions", Boolean, nullable=False),
    Column("supports_streaming", Boolean, nullable=False),
    Column("requests_per_minute", Integer),
    Column("timeout_s", Float, nullable=False),
    Column("cache_ttl_s", Integer),  # null: answers are not cached
    Column("managed_by", Text),
    _revision(),
    *_times(),
    UniqueConstraint("project_id", "name"),
    CheckConstraint(
        "status IN ('testing', 'available', 'deprecated', 'error')", name="status_known"
    ),
)

# The price book: prices are added, never changed.
model_prices = Table(
    "model_prices",
    metadata,
    Column(
        "model_id",
        UUID(as_uuid=True),
        ForeignKey("models.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("version", Integer, primary_key=True),
    _project(),
    Column("prompt_usd_per_token", MONEY),  # null: unknown, which is not zero
    Column("completion_usd_per_token", MONEY),
    Column("cached_prompt_usd_per_token", MONEY),
    Column("source", Text, nullable=False),
    Column("effective_at", TIME, nullable=False),
)

# Fast-moving figures, apart from the slow row, so that they never bump its revision.
model_stats = Table(
    "model_stats",
    metadata,
    Column(
        "model_id",
        UUID(as_uuid=True),
        ForeignKey("models.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    _project(),
    Column("average_latency_ms", Float),
    Column("recent_outcomes", Text, nullable=False, server_default=text("''")),  # '1' ok, '0' not
    Column("last_health_check", TIME),
    Column("consecutive_failed_checks", Integer, nullable=False, server_default=text("0")),
    Column("consecutive_passed_checks", Integer, nullable=False, server_default=text("0")),
    Column("calls_total", BigInteger, nullable=False, server_default=text("0")),
)

model_checks = Table(
    "model_checks",
    metadata,
    _id(),
    _project(),
    Column(
        "model_id", UUID(as_uuid=True), ForeignKey("models.id", ondelete="CASCADE"), nullable=False
    ),
    Column("at", TIME, nullable=False),
    Column("ok", Boolean, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("error_class", Text),
    Column("message", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost_usd", MONEY),
    Index("ix_model_checks_model_id_id", "model_id", "id"),
)

# --- programs ------------------------------------------------------------------------------

programs = Table(
    "programs",
    metadata,
    _id(),
    _project(),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("capture", JSONB, nullable=False),
    Column("managed_by", Text),
    _revision(),
    *_times(),
    UniqueConstraint("project_id", "name"),
    CheckConstraint("status IN ('draft', 'ready', 'archived')", name="status_known"),
)

program_versions = Table(
    "program_versions",
    metadata,
    _id(),
    _project(),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the artifact's canonical JSON
    Column("artifact", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
    UniqueConstraint("program_id", "number"),
    UniqueConstraint("program_id", "hash"),
)

program_labels = Table(
    "program_labels",
    metadata,
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), primary_key=True),
    Column("label", Text, primary_key=True),
    _project(),
    Column("version_id", UUID(as_uuid=True), ForeignKey("program_versions.id"), nullable=False),
    _revision(),
)

label_events = Table(
    "label_events",
    metadata,
    _id(),
    _project(),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), nullable=False),
    Column("label", Text, nullable=False),
    Column("from_version", Integer),
    Column("to_version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", TIME, nullable=False),
    Index("ix_label_events_program_id_id", "program_id", "id"),
)

# --- routing -------------------------------------------------------------------------------

program_models = Table(
    "program_models",
    metadata,
    _id(),
    _project(),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id")),
    Column("route", Text),  # a named route of /v1/chat/completions instead of a program
    Column("predictor", Text),  # null: the whole program
    Column("model_id", UUID(as_uuid=True), ForeignKey("models.id"), nullable=False),
    Column("routing_strategy", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("conditions", JSONB, nullable=False),
    # Atomic increments, by the spool's writer only.
    Column("total_requests", BigInteger, nullable=False, server_default=text("0")),
    Column("successful_requests", BigInteger, nullable=False, server_default=text("0")),
    Column("total_cost", MONEY, nullable=False, server_default=text("0")),
    Column("managed_by", Text),
    _revision(),
    *_times(),
    CheckConstraint("(program_id IS NULL) <> (route IS NULL)", name="program_or_route"),
    UniqueConstraint(
        "project_id",
        "program_id",
        "route",
        "predictor",
        "model_id",
        name="uq_program_models_target_model",
        postgresql_nulls_not_distinct=True,
    ),
)

# --- serving -------------------------------------------------------------------------------

splits = Table(
    "splits",
    metadata,
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), primary_key=True),
    _project(),
    Column("salt", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("arms", JSONB, nullable=False),
    _revision(),
    Column("updated_at", TIME, nullable=False),
)

# A version without a row is served by the gateways themselves.
placements = Table(
    "placements",
    metadata,
    _id(),
    _project(),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), nullable=False),
    Column(
        "version_id",
        UUID(as_uuid=True),
        ForeignKey("program_versions.id"),
        nullable=False,
        unique=True,
    ),
    Column("spec", JSONB, nullable=False),
    Column("application", Text, nullable=False),  # of Serve, for this spec
    Column("serving", Text),  # the application that takes the traffic now
    Column("takes_over", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("failures", Integer, nullable=False),
    Column("since", TIME, nullable=False),
    Column("managed_by", Text),
    _revision(),
    *_times(),
    Index("ix_placements_program_id", "program_id"),
    CheckConstraint(
        "status IN ('pending', 'starting', 'ready', 'failed', 'draining')", name="status_known"
    ),
)

gateway_replicas = Table(
    "gateway_replicas",
    metadata,
    Column("id", Text, primary_key=True),
    # "gateway"; "dedicated" and "evaluator" take no requests of their own.
    Column("kind", Text, nullable=False, server_default=text("'gateway'")),
    Column("node", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("applied_version", BigInteger, nullable=False),
    Column("seen_at", TIME, nullable=False),
    Column("spool_lost", BigInteger, nullable=False, server_default=text("0")),
)

# One row a life of a process that writes to a spool. What a lost node's disk still held is
# appended, as last reported, less drained.
spool_writers = Table(
    "spool_writers",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("node", Text),  # of Ray; null until the writer's first report
    Column("appended", BigInteger, nullable=False),
    Column("drained", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),  # once its node is gone
    Column("seen_at", TIME, nullable=False),
)

# --- traces --------------------------------------------------------------------------------

executions = Table(
    "executions",
    metadata,
    Column("day", Date, primary_key=True),
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("project_id", UUID(as_uuid=True), nullable=False),
    Column("source", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("program_id", UUID(as_uuid=True)),
    Column("program", Text),
    Column("version_id", UUID(as_uuid=True)),
    Column("version", Integer),
    Column("endpoint", Text, nullable=False),
    Column("model", Text),
    Column("started_at", TIME, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("overhead_ms", Float),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("key_id", Text),
    Column("request_id", Text),
    Column("trace_id", Text),
    Column("span_id", Text),
    Column("unit", Text),
    Column("split_epoch", BigInteger),
    Column("arm", Text),
    Column("propensity", Float),
    Column("tags", JSONB, nullable=False),
    Column("rollout", Text),
    Column("step", Integer),
    Column("seed", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cost_usd", MONEY),  # null when any attempt's price is unknown
    Column("attempts", Integer, nullable=False),
    Column("fallback", Boolean, nullable=False),
    Column("schema", SmallInteger, nullable=False),
    Index("ix_executions_project_id_id", "project_id", "id"),
    Index("ix_executions_program_id_id", "program_id", "id"),
    postgresql_partition_by="RANGE (day)",
)

# One row a logical call of a predictor; `call` is its place in the execution, from 0.
lm_calls = Table(
    "lm_calls",
    metadata,
    Column("day", Date, primary_key=True),
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("call", Integer, primary_key=True),
    Column("project_id", UUID(as_uuid=True), nullable=False),
    Column("predictor", Text),
    Column("strategy", Text),
    Column("chosen", Text),
    Column("answered_by", Text),
    Column("losers", JSONB, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("started_at", TIME, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("usage", JSONB, nullable=False),
    postgresql_partition_by="RANGE (day)",
)

lm_attempts = Table(
    "lm_attempts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("call", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),  # place in the call, from 0
    Column("project_id", UUID(as_uuid=True), nullable=False),
    Column("model_id", UUID(as_uuid=True), nullable=False),
    Column("model", Text, nullable=False),
    Column("assignment_id", UUID(as_uuid=True)),
    Column("number", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error_class", Text),
    Column("message", Text),
    Column("latency_ms", Float, nullable=False),
    Column("first_token_ms", Float),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost_usd", MONEY),
    Column("cost_source", Text, nullable=False),
    Column("price_version", Integer, nullable=False),
    Column("started_at", TIME, nullable=False),
    Column("provider_status", Integer),
    Column("retry_after_s", Float),
    Column("cached", Boolean, nullable=False, server_default=text("false")),
    Index("ix_lm_attempts_model_id_started_at", "model_id", "started_at"),
    postgresql_partition_by="RANGE (day)",
)

# The only place that holds content of executions; rows leave when `keep_until` has passed.
execution_contents = Table(
    "execution_contents",
    metadata,
    Column("day", Date, primary_key=True),
    Column("execution_id", UUID(as_uuid=True), primary_key=True),
    Column("project_id", UUID(as_uuid=True), nullable=False),
    Column("capture", Text, nullable=False),
    Column("keep_until", Date, nullable=False),
    Column("inputs", JSONB),
    Column("outputs", JSONB),
    Column("calls", JSONB, nullable=False),  # [{"request": ..., "response": ...}] by call
    postgresql_partition_by="RANGE (day)",
)

# Roll-ups: one row a minute, program version and model; computed from the rows just inserted.
usage_minutes = Table(
    "usage_minutes",
    metadata,
    Column("minute", TIME, primary_key=True),
    Column("project_id", UUID(as_uuid=True), primary_key=True),
    Column("program", Text, primary_key=True),  # '' for direct model calls
    Column("version", Integer, primary_key=True),  # 0 for direct model calls
    Column("model_id", UUID(as_uuid=True), primary_key=True),
    Column("source", Text, primary_key=True),
    Column("attempts", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", MONEY, nullable=False),
    Column("unpriced", BigInteger, nullable=False),  # successful attempts of unknown cost
    Column("latency_ms_sum", Float, nullable=False),
    # Answers from the response cache: none of the attempts.
    Column("cached", BigInteger, nullable=False, server_default=text("0")),
)

feedback = Table(
    "feedback",
    metadata,
    _id(),
    _project(),
    Column("execution_id", UUID(as_uuid=True), nullable=False),
    Column("score", Float),
    Column("label", Text),
    Column("comment", Text),
    Column("expected", JSONB),
    Column("actor", Text, nullable=False),
    Column("at", TIME, nullable=False),
    Index("ix_feedback_execution_id", "execution_id"),
)

# --- datasets ------------------------------------------------------------------------------

datasets = Table(
    "datasets",
    metadata,
    _id(),
    _project(),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    _revision(),
    *_times(),
    UniqueConstraint("project_id", "name"),
    CheckConstraint("type IN ('training', 'validation', 'test', 'custom')", name="type_known"),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    _id(),
    _project(),
    Column(
        "dataset_id",
        UUID(as_uuid=True),
        ForeignKey("datasets.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("number", Integer, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of its examples' hashes in order
    Column("source", JSONB, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("fields", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
    UniqueConstraint("dataset_id", "number"),
    UniqueConstraint("dataset_id", "hash"),
)

# Content of users, as executions' is. JSON rather than JSONB: a number stays as it was hashed.
dataset_examples = Table(
    "dataset_examples",
    metadata,
    Column(
        "version_id",
        UUID(as_uuid=True),
        ForeignKey("dataset_versions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True),  # place in the version, from 0
    _project(),
    Column("hash", LargeBinary, nullable=False),  # SHA-256 of the canonical JSON of the values
    Column("values", JSON, nullable=False),
)

# --- evaluation ----------------------------------------------------------------------------

evaluations = Table(
    "evaluations",
    metadata,
    _id(),
    _project(),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), nullable=False),
    Column("version_id", UUID(as_uuid=True), ForeignKey("program_versions.id"), nullable=False),
    # By name and number too: the report outlives the dataset.
    Column("dataset_id", UUID(as_uuid=True), nullable=False),
    Column("dataset", Text, nullable=False),
    Column("dataset_version", Integer, nullable=False),
    Column("examples", JSONB, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("settings", JSONB, nullable=False),
    Column("configuration", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", Text),
    Column("progress", JSONB, nullable=False),
    Column("report", JSONB),
    Column("created_by", Text, nullable=False),
    Column("started_at", TIME),
    Column("ended_at", TIME),
    _revision(),
    *_times(),
    Index("ix_evaluations_project_id_id", "project_id", "id"),
    CheckConstraint(
        "status IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name="status_known"
    ),
)

# One row a run of an example, as it happens.
evaluation_results = Table(
    "evaluation_results",
    metadata,
    Column(
        "evaluation_id",
        UUID(as_uuid=True),
        ForeignKey("evaluations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True),
    Column("repeat", Integer, primary_key=True),
    Column("project_id", UUID(as_uuid=True), nullable=False),
    Column("example_hash", Text, nullable=False),
    Column("scores", JSONB, nullable=False),
    Column("errors", JSONB, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("cost_usd", MONEY),
    Column("metric_costs", JSONB, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached", Boolean, nullable=False),
    Column("execution_id", UUID(as_uuid=True)),
    Column("at", TIME, nullable=False),
)

# One row a score of a run: latency, cost and tokens are those of the run that was paid for.
evaluation_cache = Table(
    "evaluation_cache",
    metadata,
    Column("run", Text, primary_key=True),  # hashes, as evaluation/rules.py makes them
    Column("metric", Text, primary_key=True),
    _project(),
    Column("score", Float, nullable=False),
    Column("metric_cost_usd", MONEY),
    Column("metric_called", Boolean, nullable=False),  # whether the metric called models
    Column("errors", JSONB, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("cost_usd", MONEY),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("execution_id", UUID(as_uuid=True)),
    Column("at", TIME, nullable=False),
    Column("expires_at", TIME, nullable=False),
    Index("ix_evaluation_cache_expires_at", "expires_at"),
)

# One search for a better program. What was asked for is written once, in `asked`; what it came to
# once, in `outcome`.
optimization_runs = Table(
    "optimization_runs",
    metadata,
    _id(),
    _project(),
    Column("name", Text),
    Column("program_id", UUID(as_uuid=True), ForeignKey("programs.id"), nullable=False),
    Column("version_id", UUID(as_uuid=True), ForeignKey("program_versions.id"), nullable=False),
    # By name and number too: the run outlives the dataset.
    Column("dataset_id", UUID(as_uuid=True), nullable=False),
    Column("dataset", Text, nullable=False),
    Column("dataset_version", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("optimizer", Text, nullable=False),
    Column("asked", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", Text),
    Column("attempt", Integer, nullable=False),  # its starts; an older one's driver is fenced off
    Column("submissions", Integer, nullable=False),  # since somebody last asked for it
    Column("job", Text),
    Column("spent", JSONB, nullable=False),
    Column("outcome", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("submitted_at", TIME),
    Column("started_at", TIME),
    Column("heartbeat_at", TIME),
    Column("ended_at", TIME),
    _revision(),
    *_times(),
    Index("ix_optimization_runs_project_id_id", "project_id", "id"),
    CheckConstraint(
        "status IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name="status_known"
    ),
)


def _run() -> Column[object]:
    return Column(
        "run_id",
        UUID(as_uuid=True),
        ForeignKey("optimization_runs.id", ondelete="CASCADE"),
        primary_key=True,
    )


# One row a measurement of a candidate, as it happens.
optimization_trials = Table(
    "optimization_trials",
    metadata,
    _run(),
    Column("number", Integer, primary_key=True),
    _project(),
    Column("candidate", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("parents", JSONB, nullable=False),
    Column("score", Float, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("standing", Float),
    Column("lm_calls", BigInteger, nullable=False),
    Column("facts", JSONB, nullable=False),
    Column("at", TIME, nullable=False),
)

# What the optimizer saw, by content hash: none of it is ever held out.
optimization_examples = Table(
    "optimization_examples",
    metadata,
    _run(),
    Column("hash", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    _project(),
    Index("ix_optimization_examples_hash", "hash"),
)

# LM answers of runs that may go on: what a resumed one need not pay for again. Gone at its end.
optimization_answers = Table(
    "optimization_answers",
    metadata,
    _run(),
    Column("digest", Text, primary_key=True),  # of the request
    Column("nth", Integer, primary_key=True),  # of equal requests
    _project(),
    Column("answer", JSONB, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("usd", MONEY),
    Column("latency_ms", Float),  # of the model; NULL: nobody looked
    Column("at", TIME, nullable=False),
)

optimization_versions = Table(
    "optimization_versions",
    metadata,
    _run(),
    Column("rank", Integer, primary_key=True),
    _project(),
    Column("version_id", UUID(as_uuid=True), ForeignKey("program_versions.id"), nullable=False),
    Column("label", Text),
    Column("score", Float),
    Column("created", Boolean, nullable=False),
)

PARTITIONED = (executions, lm_calls, lm_attempts, execution_contents)
