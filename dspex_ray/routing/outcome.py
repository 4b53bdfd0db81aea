"""What a call without an answer means for its caller: one error out of all its attempts."""

from __future__ import annotations

from collections.abc import Sequence

from dspex_ray.core.errors import (
    DeadlineExceeded,
    DspexRayError,
    Invalid,
    ProviderDown,
    RateLimited,
)
from dspex_ray.models.model import ErrorClass
from dspex_ray.routing.model import Attempt

CONTEXT_LENGTH_RULE = "context_length"

# The request itself is at fault when every model that saw it says so.
_REFUSALS = frozenset(
    {ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_LENGTH, ErrorClass.UNSUPPORTED}
)


def no_answer(records: Sequence[Attempt], *, out_of_time: bool) -> DspexRayError:
    """DeadlineExceeded when time ran out. RateLimited when nothing but limits was met.

    Invalid when every model refused the request itself in the end. ProviderDown otherwise.
    """
    last = _last_of_each_model(records)
    told = "; ".join(_told(record) for record in last)
    attempts = [_plain(record) for record in records]
    if out_of_time:
        return DeadlineExceeded(
            f"the deadline passed before a model answered{': ' if told else ''}{told}",
            attempts=attempts,
        )
    models = "the model" if len(last) == 1 else f"all {len(last)} models"
    if records and all(record.error_class is ErrorClass.RATE_LIMIT for record in records):
        return RateLimited(
            f"{models} limited the rate of calls: {told}",
            retry_after_s=_soonest(last),
            attempts=attempts,
        )
    classes = {record.error_class for record in last}
    if classes and classes <= _REFUSALS:
        too_long = classes == {ErrorClass.CONTEXT_LENGTH}
        return Invalid(
            f"{models} refused the request: {told}",
            rule=CONTEXT_LENGTH_RULE if too_long else "accepted by a model",
            attempts=attempts,
        )
    return ProviderDown(f"{models} failed: {told}", retry_after_s=_soonest(last), attempts=attempts)


def broken_stream(record: Attempt, *, out_of_time: bool) -> DspexRayError:
    """For a stream that ended early, after its reader had some of it."""
    kind = DeadlineExceeded if out_of_time else ProviderDown
    return kind(
        f"the answer broke off after its first content: {_told(record)}",
        attempts=[_plain(record)],
    )


def _last_of_each_model(records: Sequence[Attempt]) -> list[Attempt]:
    return list({record.model_id: record for record in records}.values())


def _told(record: Attempt) -> str:
    """For example `gpt: 401 auth (no such key)`."""
    parts = [str(record.provider_status or ""), str(record.error_class or record.outcome)]
    note = f" ({record.message})" if record.message else ""
    return f"{record.model}: {' '.join(part for part in parts if part)}{note}"


def _plain(record: Attempt) -> dict[str, str | int]:
    facts: dict[str, str | int | None] = {
        "model": record.model,
        "number": record.number,
        "outcome": record.outcome,
        "error_class": record.error_class.value if record.error_class else None,
        "status": record.provider_status,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _soonest(records: Sequence[Attempt]) -> float | None:
    known = [record.retry_after_s for record in records if record.retry_after_s is not None]
    return min(known, default=None)
