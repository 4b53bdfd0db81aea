"""What follows from records: sums, counters, roll-ups, and which outcomes speak of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import UUID

from dspex_ray.core.errors import Invalid
from dspex_ray.core.ids import AssignmentId, ModelId, ProjectId, day_of
from dspex_ray.core.noun import no_nul
from dspex_ray.models.model import ErrorClass
from dspex_ray.models.rules import next_latency, push_outcomes
from dspex_ray.routing.model import Attempt
from dspex_ray.traces.model import ExecutionRecord, Source

T = TypeVar("T", int, Decimal)

_FIRST_DAY = date(2020, 1, 1)  # before any record of ours: a UUID that is not a version 7

# What a failure says something about the model by; a bad or a cancelled request does not.
SPEAKS_OF_MODEL = frozenset(
    {
        ErrorClass.AUTH,
        ErrorClass.BILLING,
        ErrorClass.RATE_LIMIT,
        ErrorClass.UNSUPPORTED,
        ErrorClass.TIMEOUT,
        ErrorClass.SERVER,
        ErrorClass.TRANSPORT,
        ErrorClass.MALFORMED,
    }
)


def record_day(identifier: UUID, today: date) -> date:
    """The partition day; raises Invalid for an id that is no UUIDv7 or lies beyond tomorrow."""
    try:
        day = day_of(identifier)
    except (ValueError, OverflowError, OSError):
        day = date.max
    if identifier.version != 7 or not _FIRST_DAY <= day <= today + timedelta(days=1):
        raise Invalid(
            f"{identifier} is not the id of a record: a UUIDv7, made by tomorrow at the latest",
            field="id",
            rule="uuid7",
        )
    return day


def outcome_of(attempt: Attempt) -> Literal["1", "0"] | None:
    """What the attempt adds to its model's recent outcomes; None: nothing."""
    if attempt.outcome == "ok":
        return "1"
    if attempt.outcome == "failed" and attempt.error_class in SPEAKS_OF_MODEL:
        return "0"
    return None


class Spent(NamedTuple):
    """Sums over attempts. None: one that answered did not say."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None


def spent(attempts: Sequence[Attempt]) -> Spent:
    return Spent(
        prompt_tokens=_total(attempts, lambda attempt: attempt.prompt_tokens, 0),
        completion_tokens=_total(attempts, lambda attempt: attempt.completion_tokens, 0),
        cost_usd=_total(attempts, lambda attempt: attempt.cost_usd, Decimal(0)),
    )


def sums(record: ExecutionRecord) -> dict[str, Any]:
    """The columns of an execution that follow from its calls; `attempts` are those made."""
    made = list(_made(record))
    return {
        **spent(made)._asdict(),
        "attempts": len(made),
        "fallback": any(call.fallback for call in record.lm_calls),
    }


@dataclass
class AssignmentCounts:
    """What an assignment's counters grow by.

    A request is one LM call that reached the assignment, with all its retries there: successful
    when one of them was. One that the client cancelled counts only its cost, and one that was
    answered from the response cache nothing.
    """

    total_requests: int = 0
    successful_requests: int = 0
    total_cost: Decimal = Decimal(0)


AssignmentKey = tuple[ProjectId, AssignmentId]


def assignment_counts(records: Iterable[ExecutionRecord]) -> dict[AssignmentKey, AssignmentCounts]:
    counts: dict[AssignmentKey, AssignmentCounts] = defaultdict(AssignmentCounts)
    for record in records:
        for call in record.lm_calls:
            reached: dict[AssignmentId, set[str]] = defaultdict(set)
            for attempt in call.attempts:
                if attempt.assignment_id is None or not attempt.made:
                    continue
                reached[attempt.assignment_id].add(attempt.outcome)
                key = (record.project_id, attempt.assignment_id)
                counts[key].total_cost += attempt.cost_usd or 0
            for assignment, outcomes in reached.items():
                count = counts[record.project_id, assignment]
                count.total_requests += bool(outcomes & {"ok", "failed"})
                count.successful_requests += "ok" in outcomes
    return dict(counts)


ModelKey = tuple[ProjectId, ModelId]


def model_attempts(records: Iterable[ExecutionRecord]) -> dict[ModelKey, list[Attempt]]:
    """The attempts made on each model, in order of time; health checks keep their own account."""
    found: dict[ModelKey, list[Attempt]] = defaultdict(list)
    for record in records:
        if record.source is not Source.HEALTH:
            for attempt in _made(record):
                found[record.project_id, attempt.model_id].append(attempt)
    for attempts in found.values():
        attempts.sort(key=lambda attempt: attempt.started_at)
    return dict(found)


class ModelFigures(NamedTuple):
    average_latency_ms: float | None
    recent_outcomes: str
    calls_total: int


def next_figures(figures: ModelFigures, attempts: Iterable[Attempt]) -> ModelFigures:
    """The model's figures after these attempts, which come in order of time."""
    latency, outcomes, calls = figures
    for attempt in attempts:
        calls += 1
        outcome = outcome_of(attempt)
        if outcome is not None:
            outcomes = push_outcomes(outcomes, outcome)
        if attempt.outcome == "ok":
            latency = next_latency(latency, attempt.latency_ms)
    return ModelFigures(latency, outcomes, calls)


class UsageKey(NamedTuple):
    minute: datetime
    project_id: ProjectId
    program: str  #: "" for direct model calls
    version: int  #: 0 for direct model calls
    model_id: ModelId
    source: str


@dataclass
class UsageCounts:
    """Of one minute. Cancelled attempts are those neither succeeded nor failed; `cached` answers
    are none of the attempts."""

    attempts: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0
    latency_ms_sum: float = 0.0  #: of the successful ones
    cached: int = 0


def usage_counts(records: Iterable[ExecutionRecord]) -> dict[UsageKey, UsageCounts]:
    """Roll-ups by the minute in which an attempt began, in order of their keys."""
    found: dict[UsageKey, UsageCounts] = defaultdict(UsageCounts)
    for record in records:
        for attempt in _every(record):
            if attempt.cached:
                found[_usage_key(record, attempt)].cached += 1
            elif attempt.made:
                _add(found[_usage_key(record, attempt)], attempt)
    return dict(sorted(found.items()))


def whole_minutes(
    since: datetime | None, until: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    """The span asked for, widened to whole minutes, as roll-ups are; by default the last day.

    Raises Invalid when it ends before it begins.
    """
    end = until or now
    start = since or end - timedelta(days=1)
    if start > end:
        raise Invalid(f"since {start} is after until {end}", field="since", rule="before until")
    floor = _minute(start)
    ceiling = _minute(end)
    return floor, ceiling if ceiling == end else ceiling + timedelta(minutes=1)


def first_day(since: datetime) -> date:
    """The earliest partition of records that began at `since`: ids are made a little before, or
    on a clock a little behind."""
    day = since.astimezone(UTC).date()
    return day if day == date.min else day - timedelta(days=1)


def last_day(until: datetime) -> date:
    day = until.astimezone(UTC).date()
    return day if day == date.max else day + timedelta(days=1)


def require_storable(value: Any, field: str) -> None:
    """Raise Invalid for what Postgres cannot hold as JSON: null bytes, lone surrogates, integers
    past 64 bits."""
    import orjson  # not in the base install, whose CLI draws call trees by the rules of this module

    no_nul(value, field)
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise Invalid(f"{field} cannot be stored: {error}", field=field, rule="json") from None


def storable(value: Any) -> Any:
    """A copy without null bytes, which become U+FFFD: a record is never refused for its text."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _made(record: ExecutionRecord) -> Iterator[Attempt]:
    yield from (attempt for attempt in _every(record) if attempt.made)


def _every(record: ExecutionRecord) -> Iterator[Attempt]:
    for call in record.lm_calls:
        yield from call.attempts


def _total(made: Iterable[Attempt], of: Callable[[Attempt], T | None], total: T) -> T | None:
    for attempt in made:
        value = of(attempt)
        if value is not None:
            total += value
        elif attempt.outcome == "ok":
            return None
    return total


def _usage_key(record: ExecutionRecord, attempt: Attempt) -> UsageKey:
    return UsageKey(
        _minute(attempt.started_at),
        record.project_id,
        record.program or "",
        record.version or 0,
        attempt.model_id,
        record.source,
    )


def _add(counts: UsageCounts, attempt: Attempt) -> None:
    ok = attempt.outcome == "ok"
    counts.attempts += 1
    counts.succeeded += ok
    counts.failed += attempt.outcome == "failed"
    counts.prompt_tokens += attempt.prompt_tokens or 0
    counts.completion_tokens += attempt.completion_tokens or 0
    counts.cost_usd += attempt.cost_usd or 0
    counts.unpriced += ok and attempt.cost_usd is None
    counts.latency_ms_sum += attempt.latency_ms if ok else 0.0


def _minute(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(second=0, microsecond=0)
