"""What one logical LM call takes from the response cache and leaves in it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from functools import lru_cache
from json import dumps, loads
from typing import TYPE_CHECKING, Any, NamedTuple

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.clock import Clock
from dspex_ray.models.model import Model
from dspex_ray.routing.cache import CacheKey, CacheUse, Lookup, ResponseCache
from dspex_ray.routing.scope import RequestScope

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response

# Whole answers. What a filter stopped may pass the next time.
_COMPLETE = frozenset({"stop", "length", "tool_call"})


class Recalled(NamedTuple):
    """An answer from memory, and what a model's attempt tells beside it. `events` are those of a
    stream of it, empty when a whole answer was asked for."""

    response: Response
    events: tuple[Any, ...]
    started_at: datetime
    latency_ms: float


class Recall:
    """Of one call: models without a `cache_ttl_s` cost it one comparison."""

    def __init__(
        self,
        cache: ResponseCache,
        clock: Clock,
        request: Request,
        scope: RequestScope,
        *,
        stream: bool,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._request = request
        self._scope = scope
        self._stream = stream
        self._asked: tuple[str, int] | None = None

    def find(self, model: Model) -> Recalled | None:
        """The model's answer to this very request, if it may be taken from memory."""
        if model.cache_ttl_s is None:
            self._scope.lookups.append(None)
            return None
        started_at, began = self._clock.now(), self._clock.monotonic()
        found, lookup = self._look(model)
        self._scope.lookups.append(lookup)
        if found is None:
            return None
        response, events = found
        return Recalled(response, events, started_at, (self._clock.monotonic() - began) * 1000)

    def keep(self, model: Model, response: Response) -> None:
        """Remember a whole answer of the model, unless the caller's request forbids it."""
        if model.cache_ttl_s is None or self._scope.cache is CacheUse.NONE:
            return
        key = self._key(model)
        answer = _packed(response) if response.finish_reason in _COMPLETE else None
        if key is not None and answer is not None:
            self._cache.put(key, answer, model.cache_ttl_s)

    def _look(self, model: Model) -> tuple[tuple[Response, tuple[Any, ...]] | None, Lookup]:
        if self._scope.cache is CacheUse.NONE:
            return None, "bypass"
        key = self._key(model)
        if key is None or self._scope.cache is CacheUse.REFRESH:
            return None, "bypass"
        answer = self._cache.get(key)
        if answer is None:
            return None, "miss"
        response = _unpacked(answer)
        events = _events(response) if self._stream else ()
        return (None, "miss") if events is None else ((response, events), "hit")

    def _key(self, model: Model) -> CacheKey | None:
        """None when the request cannot be named: it refers to a file, or is no JSON."""
        if self._asked is None:
            try:
                digest = content_hash(exact_content(self._request))
            except (TypeError, ValueError):
                return None
            self._asked = digest, self._scope.nth_asked(digest)
        return CacheKey(model.id, model.revision, *self._asked)


def exact_content(request: Request) -> dict[str, Any]:
    """Every field there is, by the classes themselves: a serialiser could leave one out. Not the
    model's name, which the route gave; the key holds the model that is called."""
    content: dict[str, Any] = _plain(request)
    del content["model"]
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    kind: Any = type(value)
    names = _names(kind)
    return {name: _plain(getattr(value, name)) for name in names} if names else value


@lru_cache(maxsize=256)
def _names(kind: Any) -> tuple[str, ...]:
    """Of a dataclass's fields; those of lm15 have one at least."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _packed(response: Response) -> bytes | None:
    """Without the provider's raw body, and with the usage of the replay: nothing.

    None for what JSON cannot hold, such as a log probability of minus infinity.
    """
    from dspy._vendor.lm15.serde import response_to_dict
    from dspy.lm15 import Usage

    free = replace(response, usage=Usage(input_tokens=0, output_tokens=0))
    try:
        text = dumps(
            response_to_dict(free), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode()
    except (TypeError, ValueError):
        return None


def _unpacked(answer: bytes) -> Response:
    from dspy._vendor.lm15.serde import response_from_dict

    response: Response = response_from_dict(loads(answer))
    return response


def _events(response: Response) -> tuple[Any, ...] | None:
    """None for an answer with parts that no stream can carry."""
    from dspy._vendor.lm15.result import response_to_events

    try:
        return tuple(response_to_events(response))
    except TypeError:
        return None
