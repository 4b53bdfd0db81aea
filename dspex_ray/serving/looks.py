"""What Serve runs, looked at as seldom as will do.

A look makes the controller describe everything, which costs it and whoever asks some 30 ms of CPU
each: at one a second, a tenth of a core in a platform at rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dspex_ray.core.clock import Clock

_SETTLED_S = 5.0
_RUNNING = "RUNNING"

Applications = Mapping[str, Any]  #: by name, each with a `status`, as Serve has them


class Looks:
    """`look` asks Serve. For one thread at a time."""

    def __init__(self, clock: Clock, look: Callable[[], Applications]) -> None:
        self._clock, self._look = clock, look
        self._seen: Applications = {}
        self._at = -math.inf

    def applications(self, prefix: str, wanted: Collection[str]) -> Applications:
        """Those whose names begin so: as they are, or, when they were then all that is wanted and
        all running, as they were at most five seconds ago. Blocks."""
        if not self._settled(prefix, wanted):
            self._seen, self._at = self._look(), self._clock.monotonic()
        return self._named(prefix)

    def _settled(self, prefix: str, wanted: Collection[str]) -> bool:
        found = self._named(prefix)
        return (
            self._clock.monotonic() - self._at < _SETTLED_S
            and found.keys() == set(wanted)
            and all(one.status.value == _RUNNING for one in found.values())
        )

    def _named(self, prefix: str) -> Applications:
        return {name: one for name, one in self._seen.items() if name.startswith(prefix)}
