"""What crosses between a run's own process and those where its candidates run, as JSON.

Candidates hold no key, no route and no budget: each LM call of theirs is asked for here, and the
answer comes back with what it came to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from dspex_ray.core.errors import BY_CODE, DspexRayError
from dspex_ray.core.noun import Noun
from dspex_ray.core.values import Usd
from dspex_ray.optimization.budget import (
    Amount,
    BudgetExhausted,
    RunCancelled,
    RunHalted,
    RunRefused,
)


class Fault(Noun):
    """An error, to be raised again as what it was: one of our own by its code, one of DSPy's
    engines by its name. Of anything else the name crosses, its text stays behind."""

    code: str
    message: str = ""
    details: dict[str, Any] = Field(default_factory=dict)

    def error(self) -> Exception:
        if self.code in BY_CODE:
            return BY_CODE[self.code](self.message, **self.details)
        other: Exception = type(self.code, (Exception,), {})()
        return _engine_error(self.code, self.message) or other


def fault_of(error: Exception) -> Fault:
    if isinstance(error, DspexRayError):
        return Fault(code=error.code, message=error.message, details=error.details)
    name = type(error).__name__
    return Fault(code=name, message=str(error) if _engine_error(name, "") is not None else "")


class Halt(Noun):
    """What ended the run: a limit of the budget, a cancel, or a problem that is at fault."""

    limit: str | None = None
    reason: str | None = None
    fault: Fault | None = None

    def halted(self) -> RunHalted:
        if self.limit is not None:
            return BudgetExhausted(self.limit)
        if self.fault is None:
            return RunCancelled(self.reason or "")
        error = self.fault.error()
        ours = error if isinstance(error, DspexRayError) else DspexRayError(self.fault.code)
        return RunRefused(ours)


def halt_of(halt: RunHalted) -> Halt:
    if isinstance(halt, BudgetExhausted):
        return Halt(limit=halt.limit)
    if isinstance(halt, RunRefused):
        return Halt(fault=fault_of(halt.error))
    return Halt(reason=halt.reason if isinstance(halt, RunCancelled) else type(halt).__name__)


class Ask(Noun):
    """One LM call of a program run. `run` is the run's token, the same when it is repeated since
    its process died; `take` tells the repetitions apart. `judge` is the model that a metric asks;
    None: it is the program that asks, whose pins are `models`. `request` is an lm15 Request."""

    run: str
    take: str
    judge: str | None = None
    models: dict[str, str] = Field(default_factory=dict)
    predictor: str | None = None
    request: dict[str, Any]


class AskVectors(Noun):
    """Texts that a metric wants embeddings of."""

    run: str
    take: str
    model: str
    texts: list[str]


class Told(Noun):
    """What a call came to: an answer (an lm15 Response, or vectors), or why there is none."""

    answer: Any = None
    tokens: int = 0
    usd: Usd | None = None
    latency_ms: float | None = None
    fault: Fault | None = None
    halt: Halt | None = None

    @property
    def amount(self) -> Amount:
        return Amount(self.tokens, self.usd)

    def raised(self) -> Any:
        """The answer; raises what there is instead."""
        if self.halt is not None:
            raise self.halt.halted()
        if self.fault is not None:
            raise self.fault.error()
        return self.answer


def packed(noun: Noun) -> str:
    """JSON that keeps infinite numbers, which log probabilities may be."""
    return json.dumps(noun.model_dump(mode="python"), default=_plain, ensure_ascii=False)


def unpacked(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(text)
    return found


def _plain(value: Any) -> str:
    return str(value)  # Decimal


def _engine_error(name: str, message: str) -> Exception | None:
    from dspy import lm15

    kind = getattr(lm15, name, None)
    if isinstance(kind, type) and issubclass(kind, lm15.LM15Error):
        error: Exception = kind(message)
        return error
    return None
