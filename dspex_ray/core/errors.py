"""The tree of all errors. Kind and `code`, never an HTTP status: doors map kinds.

DspexRayError
├── Invalid            not understood or not accepted; `field` and `rule` say where and why
├── NotFound
├── Conflict
│   ├── TransitionRefused   the machine has no such move from this state
│   ├── Stale               somebody changed the row first (revision or state)
│   └── AlreadyExists
├── Denied             no, a wrong or a revoked key, or a key without the scope
├── TooLarge           the body is over the limit
├── LimitReached
│   ├── RateLimited    retry after `retry_after_s`
│   └── BudgetSpent
├── Unavailable        retryable
│   ├── ProviderDown   every candidate model failed
│   └── Overloaded     shed; retry after `retry_after_s`
├── DeadlineExceeded
└── OutputInvalid      a model answered, but not what the signature asks for
"""

from __future__ import annotations

from typing import Any, ClassVar


class DspexRayError(Exception):
    """Base of every error this project raises on purpose.

    `message` says what is, what was asked and what is allowed. `details` holds further plain
    JSON-able facts. Instances survive pickling between Ray processes.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {name: value for name, value in details.items() if value is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which asking again makes sense; None when unknown."""
        value = self.details.get("retry_after_s")
        return float(value) if value is not None else None


def _rebuild(kind: type[DspexRayError], message: str, details: dict[str, Any]) -> DspexRayError:
    return kind(message, **details)


class Invalid(DspexRayError):
    code = "invalid"

    def __init__(
        self, message: str, *, field: str | None = None, rule: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, field=field, rule=rule, **details)

    @property
    def field(self) -> str | None:
        return self.details.get("field")

    @property
    def rule(self) -> str | None:
        return self.details.get("rule")


class NotFound(DspexRayError):
    code = "not_found"


class Conflict(DspexRayError):
    code = "conflict"


class TransitionRefused(Conflict):
    code = "transition_refused"


class Stale(Conflict):
    code = "stale"


class AlreadyExists(Conflict):
    code = "already_exists"


class Denied(DspexRayError):
    """`reason` is "unauthenticated" (no or a bad key) or "forbidden" (a key without the scope)."""

    code = "denied"


class TooLarge(DspexRayError):
    code = "too_large"


class LimitReached(DspexRayError):
    code = "limit_reached"


class RateLimited(LimitReached):
    code = "rate_limited"
    retryable = True


class BudgetSpent(LimitReached):
    code = "budget_spent"


class Unavailable(DspexRayError):
    code = "unavailable"
    retryable = True


class ProviderDown(Unavailable):
    code = "provider_down"


class Overloaded(Unavailable):
    code = "overloaded"


class DeadlineExceeded(DspexRayError):
    code = "deadline_exceeded"


class OutputInvalid(DspexRayError):
    code = "output_invalid"


def every_error() -> list[type[DspexRayError]]:
    """The base and all subclasses in this module, parents before children."""
    found: list[type[DspexRayError]] = [DspexRayError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


BY_CODE: dict[str, type[DspexRayError]] = {kind.code: kind for kind in every_error()}
