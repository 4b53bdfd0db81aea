"""What of a record's content is kept: whole, redacted or nothing, as its program says."""

from __future__ import annotations

from typing import Any

from dspex_ray.programs.model import CapturePolicy
from dspex_ray.programs.redaction import Scrub, redacted, scrubber
from dspex_ray.routing.model import LmCall
from dspex_ray.traces.model import ExecutionRecord


def captured(record: ExecutionRecord, policy: CapturePolicy) -> ExecutionRecord:
    """The record as it may be written: content whole, redacted or absent, as the policy says.

    Error messages, which outlive content, are redacted whatever the mode.
    """
    if policy.mode == "none" and not _tells(record):
        return record
    scrub = scrubber(policy.patterns)
    update: dict[str, Any] = {
        "capture": policy.mode,
        "content_retention_days": policy.retention_days,
        "lm_calls": tuple(_call(call, policy.mode, scrub) for call in record.lm_calls),
    }
    if record.error_message is not None:
        update["error_message"] = scrub(record.error_message)
    if policy.mode != "full":
        keep = policy.mode == "redacted"
        update["inputs"] = redacted(record.inputs, scrub) if keep else None
        update["outputs"] = redacted(record.outputs, scrub) if keep else None
    return record.model_copy(update=update)


def _tells(record: ExecutionRecord) -> bool:
    """Whether there is anything in it to leave out or to redact."""
    return (
        record.inputs is not None
        or record.outputs is not None
        or record.error_message is not None
        or any(
            call.request is not None
            or call.response is not None
            or any(attempt.message is not None for attempt in call.attempts)
            for call in record.lm_calls
        )
    )


def _call(call: LmCall, mode: str, scrub: Scrub) -> LmCall:
    attempts = tuple(
        attempt
        if attempt.message is None
        else attempt.model_copy(update={"message": scrub(attempt.message)})
        for attempt in call.attempts
    )
    update: dict[str, Any] = {"attempts": attempts}
    if mode != "full":
        keep = mode == "redacted"
        update["request"] = redacted(call.request, scrub) if keep else None
        update["response"] = redacted(call.response, scrub) if keep else None
    return call.model_copy(update=update)
