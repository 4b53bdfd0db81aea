"""What one request carries to every LM call made for it, through DSPy, tasks and threads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from dspex_ray.core.errors import Conflict
from dspex_ray.models.failure import Failure
from dspex_ray.routing.cache import CacheUse, Lookup
from dspex_ray.routing.sink import Sink


@dataclass(eq=False)
class RequestScope:
    """One request. `deadline` is monotonic seconds of the router's clock.

    `inputs` and `context` are what conditions look at: the program's inputs, and what the caller
    said beside them. `capture_content` puts prompts and answers into the records. Who samples
    on purpose, as optimizers do, leaves `cache` at NONE.
    """

    deadline: float
    sink: Sink
    inputs: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    capture_content: bool = False
    rng: random.Random | None = None  #: None = the router's own
    cache: CacheUse = CacheUse.NONE
    lookups: list[Lookup | None] = field(default_factory=list, init=False)  #: as `cache.told` reads
    _asked: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _cancelled: bool = field(default=False, init=False, repr=False)
    _running: set[Future[Any]] = field(default_factory=set, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def nth_asked(self, digest: str) -> int:
        """How often this was asked before, counting it: choices and rollouts ask the same."""
        nth = self._asked[digest]
        self._asked[digest] += 1
        return nth

    def cancel(self) -> None:
        """Give up the request's LM calls that threads wait for, and those to come.

        Async calls are cancelled with their task. A thread cannot be: without this, a sync
        program would go on calling models for a caller who left.
        """
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for future in running:
            future.cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @contextmanager
    def running(self, future: Future[Any]) -> Iterator[None]:
        """While a thread waits for this future, `cancel` cancels it."""
        with self._lock:
            self._running.add(future)
            late = self._cancelled
        if late:
            future.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(future)


# DSPy copies its settings, not other context variables, into the threads that it starts: a program
# runs with its scope under this name among them.
SETTING = "dspex_request_scope"

_current: ContextVar[RequestScope | None] = ContextVar("dspex_ray_request_scope", default=None)


@contextmanager
def request_scope(scope: RequestScope) -> Iterator[RequestScope]:
    """Every routed LM call inside belongs to this request.

    Tasks inherit it; a thread does when it runs in a copy of this context.
    """
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)


# Asked before each attempt of a call for a whole answer but its first, with what the one before
# failed by. It may wait, and what it raises ends the call.
Gate = Callable[[Failure], Awaitable[None]]

_gate: ContextVar[Gate | None] = ContextVar("dspex_ray_attempt_gate", default=None)


@contextmanager
def attempts_gated(gate: Gate) -> Iterator[None]:
    """For calls inside, in place of any gate outside."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


def find_gate() -> Gate | None:
    return _gate.get()


def find_scope() -> RequestScope | None:
    """The request this code runs for, by this context alone."""
    return _current.get()


def current_scope() -> RequestScope:
    """The request this code runs for, in a thread of DSPy's too; raises Conflict outside of one."""
    scope = _current.get() or _scope_of_thread()
    if scope is None:
        raise Conflict("a routed LM was called outside of a request: enter request_scope first")
    return scope


def _scope_of_thread() -> RequestScope | None:
    import dspy

    scope: RequestScope | None = dspy.settings.get(SETTING)  # noqa: TID251 - see SETTING
    return scope
