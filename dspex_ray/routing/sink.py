"""Where routing puts the record of every logical LM call."""

from __future__ import annotations

from typing import Protocol

from dspex_ray.routing.model import LmCall


class Sink(Protocol):
    def lm_call(self, call: LmCall) -> None:
        """Take the record; called once a call, also when it failed or was cancelled.

        Called on an event loop: must not block, must not raise.
        """
        ...
