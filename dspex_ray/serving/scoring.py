"""What the metrics of one example may use of a process that calls models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor as Threads
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dspex_ray.core.clock import Clock
from dspex_ray.evaluation.work import Work
from dspex_ray.models.embeddings import embed
from dspex_ray.models.model import Model
from dspex_ray.programs.runtime import current_predictor
from dspex_ray.routing.engine import Assigned, Route, routed_lm
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.routing.router import Router
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving import candidates
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.traces.rules import Spent, spent


@dataclass(frozen=True)
class Calling:
    """The parts of a process by which it calls models."""

    configuration: Configuration
    router: Router
    threads: Threads
    clock: Clock

    def lm(
        self,
        name: str,
        assigned: Any,
        predictor: Callable[[], str | None] = current_predictor,
    ) -> Any:
        """A routed LM on the running loop; both functions are asked anew at every call."""
        route = Route(self.router, assigned, predictor)
        return routed_lm(name, route, asyncio.get_running_loop())


class Scoring:
    """What the metrics of one example may use: `evaluation.runner.Scoring`, and the sink of their
    calls."""

    def __init__(self, calling: Calling, work: Work) -> None:
        self._calling = calling
        self._project = work.target.program.project_id
        self.inputs = frozenset(work.target.inputs)
        self.threads = calling.threads
        self.calls: list[LmCall] = []
        self.started = calling.clock.monotonic()
        self._told = 0
        self.scope = RequestScope(
            deadline=self.started + work.timeout_s * (1 + len(work.metrics)),
            sink=self,
            capture_content=work.target.program.capture.mode != "none",
        )

    def lm_call(self, call: LmCall) -> None:
        self.calls.append(call)

    @property
    def called(self) -> bool:
        return len(self.calls) > self._told

    def spent(self) -> Decimal | None:
        new, self._told = self.calls[self._told :], len(self.calls)
        return spent_by(new).cost_usd

    def lm(self, model: str) -> Any:
        self._model(model)  # raises NotFound before DSPy is asked

        def assigned() -> Assigned:
            return [candidates.direct(self._model(model), self._calling.clock.now())]

        return self._calling.lm(f"metric-{model}", assigned)

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        """Recorded as a call of the model, like any other."""
        found, clock = self._model(model), self._calling.clock
        key = self._calling.configuration.snapshot.provider_keys.get(found.id)
        started_at, started = clock.now(), clock.monotonic()
        made = await embed(found, key, texts)
        price = found.price.prompt_usd_per_token
        known = made.tokens is not None and price is not None
        cost = made.tokens * price if made.tokens is not None and price is not None else None
        latency_ms = (clock.monotonic() - started) * 1000
        attempt = Attempt(
            model_id=found.id,
            model=found.name,
            number=1,
            outcome="ok",
            latency_ms=latency_ms,
            prompt_tokens=made.tokens,
            completion_tokens=0,
            cost_usd=cost,
            cost_source="measured" if known else "unknown",
            price_version=found.price_version,
            started_at=started_at,
        )
        self.lm_call(
            LmCall(
                predictor="embedding",
                chosen=found.name,
                answered_by=found.name,
                attempts=(attempt,),
                started_at=started_at,
                latency_ms=latency_ms,
            )
        )
        return made.vectors

    def _model(self, name: str) -> Model:
        configuration = self._calling.configuration
        found = configuration.snapshot.model(self._project, name)
        return candidates.with_figures(configuration, found)


def spent_by(calls: Iterable[LmCall]) -> Spent:
    """Sums over the attempts that were made."""
    return spent([attempt for call in calls for attempt in call.attempts if attempt.made])
