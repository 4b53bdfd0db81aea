"""One request of the data plane: who, until when, for which unit; and the record it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from dspex_ray.access.rules import KeyRecord
from dspex_ray.core.errors import DspexRayError
from dspex_ray.core.ids import ExecutionId
from dspex_ray.core.values import plain_decimal
from dspex_ray.programs.model import CapturePolicy
from dspex_ray.routing.cache import CacheUse, told
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving.snapshot import Pick
from dspex_ray.telemetry.spans import OpenSpan
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus

NO_CONTENT = CapturePolicy(mode="none")


@dataclass(frozen=True, slots=True)
class Ask:
    """What the door knows of a request before it is understood."""

    id: ExecutionId
    key: KeyRecord
    request_id: str
    trace_id: str | None
    span_id: str | None
    traceparent: str
    unit: str  #: the sticky key of the client's session, or the request id
    started_at: datetime
    started: float  #: monotonic seconds
    deadline: float  #: monotonic seconds
    tags: Mapping[str, str] = field(default_factory=dict)
    cache: CacheUse = CacheUse.FULL


@dataclass(slots=True)
class Recording:
    """Collects the LM calls of a request (it is the router's sink) and makes its record."""

    ask: Ask
    endpoint: str
    model: str | None = None
    pick: Pick | None = None
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    calls: list[LmCall] = field(default_factory=list)
    scope: RequestScope | None = None
    span: OpenSpan | None = None

    def lm_call(self, call: LmCall) -> None:
        self.calls.append(call)

    def give_up(self) -> None:
        """Stop LM calls that a sync program's threads still wait for."""
        if self.scope is not None:
            self.scope.cancel()

    @property
    def attempts(self) -> list[Attempt]:
        """Those that were made; skipped and cached ones are not."""
        return [a for call in self.calls for a in call.attempts if a.made]

    @property
    def answered_by(self) -> str | None:
        """The model that answered last."""
        names = [call.answered_by for call in self.calls if call.answered_by is not None]
        return names[-1] if names else None

    @property
    def cost_usd(self) -> Decimal | None:
        """The sum over the answers; None when one of them has no known price."""
        costs = [attempt.cost_usd for attempt in self.attempts if attempt.outcome == "ok"]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def usage(self) -> dict[str, Any]:
        answers = [attempt for attempt in self.attempts if attempt.outcome == "ok"]
        return {
            "prompt_tokens": sum(attempt.prompt_tokens or 0 for attempt in answers),
            "completion_tokens": sum(attempt.completion_tokens or 0 for attempt in answers),
            "cost_usd": None if self.cost_usd is None else plain_decimal(self.cost_usd),
            "attempts": len(self.attempts),
            "fallback": any(call.fallback for call in self.calls),
        }

    def openai_usage(self) -> dict[str, int]:
        usage = self.usage()
        prompt, written = usage["prompt_tokens"], usage["completion_tokens"]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        }

    def headers(self, now: float) -> dict[str, str]:
        """`x-dspex-*` of the answer, as far as it is known."""
        headers = {"x-dspex-execution": str(self.ask.id)}
        cache = None if self.scope is None else told(self.scope.lookups)
        if cache is not None:
            headers["x-dspex-cache"] = cache
        if self.pick is not None:
            headers["x-dspex-version"] = str(self.pick.version.number)
        if self.calls:
            duration_ms = (now - self.ask.started) * 1000
            headers["x-dspex-attempts"] = str(len(self.attempts))
            overhead = max(0.0, duration_ms - waiting_ms(self.calls))
            headers["x-dspex-overhead-ms"] = f"{overhead:.2f}"
        if self.answered_by is not None:
            headers["x-dspex-model"] = self.answered_by
            if self.cost_usd is not None:
                headers["x-dspex-cost-usd"] = plain_decimal(self.cost_usd)
        return headers

    @property
    def capture(self) -> CapturePolicy:
        return NO_CONTENT if self.pick is None else self.pick.program.capture

    @property
    def keeps_content(self) -> bool:
        return self.capture.mode != "none"

    def record(
        self,
        now: float,
        *,
        error: BaseException | None = None,
        cancelled: bool = False,
    ) -> ExecutionRecord:
        """The record as of monotonic `now`; content is still in it, capture comes after."""
        duration_ms = (now - self.ask.started) * 1000
        pick = self.pick
        return ExecutionRecord(
            id=self.ask.id,
            project_id=self.ask.key.project_id,
            status=_status(error, cancelled),
            program_id=None if pick is None else pick.program.id,
            program=None if pick is None else pick.program.name,
            version_id=None if pick is None else pick.version.id,
            version=None if pick is None else pick.version.number,
            endpoint=self.endpoint,
            model=self.model,
            started_at=self.ask.started_at,
            duration_ms=duration_ms,
            overhead_ms=max(0.0, duration_ms - waiting_ms(self.calls)),
            error_code=_code(error, cancelled),
            error_message=None if error is None else _message(error),
            key_id=self.ask.key.prefix,
            request_id=self.ask.request_id,
            trace_id=self.ask.trace_id,
            span_id=self.ask.span_id,
            unit=self.ask.unit,
            split_epoch=None if pick is None else pick.epoch,
            arm=None if pick is None else str(pick.version.number),
            propensity=None if pick is None else pick.propensity,
            tags=dict(self.ask.tags),
            lm_calls=tuple(self.calls),
            inputs=self.inputs,
            outputs=self.outputs or None,
            capture=self.capture.mode,
            content_retention_days=self.capture.retention_days,
        )


def waiting_ms(calls: list[LmCall]) -> float:
    """Milliseconds during which at least one LM call was under way: overlaps count once."""
    spans = sorted((call.started_at.timestamp() * 1000, call.latency_ms) for call in calls)
    total, end = 0.0, float("-inf")
    for start, length in spans:
        stop = start + length
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _status(error: BaseException | None, cancelled: bool) -> ExecutionStatus:
    if cancelled:
        return ExecutionStatus.CANCELLED
    return ExecutionStatus.COMPLETED if error is None else ExecutionStatus.FAILED


def _code(error: BaseException | None, cancelled: bool) -> str | None:
    if cancelled:
        return "cancelled"
    if error is None:
        return None
    return error.code if isinstance(error, DspexRayError) else "unexpected"


def _message(error: BaseException) -> str:
    """Our own messages name fields and rules; any other's text might hold content."""
    if isinstance(error, DspexRayError):
        return error.message[:500]
    return type(error).__name__
