"""Reads a request's headers: who asks, within which limits, until when, as which unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dspex_ray.access.rules import KeyRecord, bearer, prefix_of, require, verify
from dspex_ray.core.actor import Scope
from dspex_ray.core.clock import Clock
from dspex_ray.core.errors import Invalid, RateLimited
from dspex_ray.core.ids import ExecutionId, KeyId, NewId
from dspex_ray.routing.cache import CacheUse
from dspex_ray.routing.limits import RateWindow
from dspex_ray.serving.request import Ask
from dspex_ray.serving.snapshot import Configuration
from dspex_ray.settings import GatewaySettings
from dspex_ray.telemetry.spans import place_of_request
from dspex_ray.telemetry.tracecontext import RandomBits, request_id

# Serve reads these before our code and lets a client lift the server's own limits with them.
_REFUSED = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
_MAX_TAGS = 20
_MAX_TAG = 200

Headers = Mapping[str, str]


class Asks:
    """One for a replica. Keys are verified against the snapshot, never against the database."""

    def __init__(
        self,
        configuration: Configuration,
        settings: GatewaySettings,
        clock: Clock,
        ids: NewId,
        random_bits: RandomBits,
    ) -> None:
        self._configuration = configuration
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._random_bits = random_bits
        self._windows: dict[KeyId, RateWindow] = {}

    def read(self, headers: Headers, scope: Scope = Scope.INVOKE) -> Ask:
        """Raises Denied, RateLimited, or Invalid naming the header."""
        for name in _REFUSED:
            if name in headers:
                raise Invalid(
                    f"header {name!r} is not allowed: use x-dspex-timeout-ms",
                    field=name,
                    rule="allowed header",
                )
        key = self._key(headers.get("authorization"), scope)
        started = self._clock.monotonic()
        self._count(key, started)
        identifier = ExecutionId(self._ids())
        named = request_id(headers.get("x-request-id"), lambda: str(identifier))
        span = place_of_request(headers.get("traceparent"), self._random_bits)
        return Ask(
            id=identifier,
            key=key,
            request_id=named,
            trace_id=span.trace_id,
            span_id=span.span_id,
            traceparent=span.traceparent,
            unit=_session(headers) or named,
            started_at=self._clock.now(),
            started=started,
            deadline=started + self._timeout_ms(headers) / 1000,
            tags=_tags(headers.get("x-dspex-tags")),
            cache=_cache_use(headers.get("cache-control")),
        )

    def again(self, ask: Ask) -> Ask:
        """The same ask as a further execution: one item of a batch."""
        return replace(
            ask,
            id=ExecutionId(self._ids()),
            started_at=self._clock.now(),
            started=self._clock.monotonic(),
        )

    def _key(self, authorization: str | None, scope: Scope) -> KeyRecord:
        secret = bearer(authorization)
        prefix = prefix_of(secret)
        record = None if prefix is None else self._configuration.snapshot.keys.get(prefix)
        key = verify(secret, record, self._clock.now())
        require(key.actor, scope)
        return key

    def _count(self, key: KeyRecord, now: float) -> None:
        """A key's requests a minute; every replica keeps to its share."""
        if key.requests_per_minute is None:
            return
        window = self._windows.setdefault(key.id, RateWindow())
        share = key.requests_per_minute / self._configuration.snapshot.gateways
        wait = window.wait_s(now, share)
        if wait > 0:
            raise RateLimited(
                f"API key {key.prefix} has made its {key.requests_per_minute} requests a minute",
                retry_after_s=wait,
                limit=key.requests_per_minute,
            )
        window.take(now, share)

    def rate_headers(self, key: KeyRecord) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's, for keys that have a limit."""
        if key.requests_per_minute is None:
            return {}
        share = key.requests_per_minute / self._configuration.snapshot.gateways
        window = self._windows.get(key.id, RateWindow())
        left = window.left(self._clock.monotonic(), share)
        return {
            "x-ratelimit-limit-requests": str(key.requests_per_minute),
            "x-ratelimit-remaining-requests": str(left),
        }

    def _timeout_ms(self, headers: Headers) -> int:
        given = headers.get("x-dspex-timeout-ms")
        if given is None:
            return self._settings.default_timeout_ms
        if not given.isdecimal() or not 1 <= int(given) <= self._settings.max_timeout_ms:
            raise Invalid(
                f"x-dspex-timeout-ms is {given[:20]!r}: must be 1 to "
                f"{self._settings.max_timeout_ms}",
                field="x-dspex-timeout-ms",
                rule="range",
            )
        return int(given)


def _session(headers: Headers) -> str | None:
    given = headers.get("x-dspex-session")
    if given is not None and len(given) > _MAX_TAG:
        raise Invalid(
            f"x-dspex-session is over {_MAX_TAG} characters", field="x-dspex-session", rule="length"
        )
    return given or None


def _cache_use(given: str | None) -> CacheUse:
    """What `cache-control` allows; other directives than these two are for other caches."""
    if given is None:
        return CacheUse.FULL
    directives = {part.strip().lower() for part in given.split(",")}
    if "no-store" in directives:
        return CacheUse.NONE
    return CacheUse.REFRESH if "no-cache" in directives else CacheUse.FULL


def _tags(given: str | None) -> dict[str, str]:
    """`a=1,b=2` as a mapping."""
    if not given:
        return {}
    tags: dict[str, str] = {}
    for part in given.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not name or len(name) > _MAX_TAG or len(value) > _MAX_TAG:
            raise Invalid(
                "x-dspex-tags must read 'name=value,name=value'", field="x-dspex-tags", rule="tags"
            )
        tags[name.strip()] = value.strip()
    if len(tags) > _MAX_TAGS:
        raise Invalid(f"more than {_MAX_TAGS} tags", field="x-dspex-tags", rule="count")
    return tags
