"""The response cache of one process: answers by exact request, bounded, in memory alone.

It holds content: nothing here is logged, and nothing survives the process. Entries belong to a
leaf model at one revision, never to a router or a route, so a change of routing replays nothing,
a change of the model forgets all, and a project never sees another's answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from dspex_ray.core.clock import Clock
from dspex_ray.core.ids import ModelId

# Key, entry and their places in the dictionary, beside the answer itself: measured, rounded up.
ENTRY_BYTES = 400

Lookup = Literal["hit", "miss", "bypass"]


class CacheUse(StrEnum):
    """What one request may do with the cache."""

    FULL = "full"
    REFRESH = "refresh"  #: asks the provider, and keeps its answer
    NONE = "none"


class CacheKey(NamedTuple):
    """`digest` is the SHA-256 of the request's canonical JSON; `nth` counts from 0 how often the
    same was asked before for the same caller's request: each asking is a sample of its own."""

    model_id: ModelId
    revision: int
    digest: str
    nth: int


class _Entry(NamedTuple):
    answer: bytes
    expires: float  #: monotonic seconds


class ResponseCache:
    """The least recently used go first when `max_bytes` or `max_entries` is reached.

    For one event loop: it has no lock. An answer larger than `max_bytes` is not kept.
    """

    def __init__(self, max_bytes: int, max_entries: int, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[CacheKey, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held_bytes(self) -> int:
        """The answers, and `ENTRY_BYTES` for each."""
        return self._bytes

    def get(self, key: CacheKey) -> bytes | None:
        """The answer, unless its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock.monotonic() >= entry.expires:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def put(self, key: CacheKey, answer: bytes, ttl_s: float) -> None:
        """Keep it for `ttl_s` seconds, in place of what was held for the key."""
        if key in self._entries:
            self._drop(key)
        size = len(answer) + ENTRY_BYTES
        if size > self._max_bytes:
            return
        self._entries[key] = _Entry(answer, self._clock.monotonic() + ttl_s)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: CacheKey) -> None:
        self._bytes -= len(self._entries.pop(key).answer) + ENTRY_BYTES


def told(lookups: Sequence[Lookup | None]) -> Literal["hit", "partial", "miss", "bypass"] | None:
    """`x-dspex-cache` of a request, from what every model that it came to said.

    None in `lookups` is a model without a cache; None alone, or nothing, has no header. `hit`
    means that no provider was asked at all, `partial` that some were.
    """
    if "bypass" in lookups:
        return "bypass"
    if "hit" not in lookups:
        return "miss" if "miss" in lookups else None
    return "hit" if all(lookup == "hit" for lookup in lookups) else "partial"
