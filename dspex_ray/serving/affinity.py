"""Which replica of a hosted model gets a prompt: the one that has understood its beginning. Pure.

A model keeps what it computed of its last prompts. Calls that share instructions and worked
examples cost a fraction on the replica that has seen them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dspex_ray.core.canonical import content_hash

SLACK = 4  #: calls that a replica may have more than the idlest: about what a new beginning costs
_KEPT = 4096


def beginning_of(body: Mapping[str, Any]) -> str:
    """Of an OpenAI chat body: the digest of all messages but the last."""
    messages = body.get("messages")
    return content_hash(messages[:-1] if isinstance(messages, list) else [])


class Affinity:
    """Remembers who got which beginning last. For one event loop; bounded."""

    def __init__(self, slack: int = SLACK) -> None:
        self._slack = slack
        self._last: OrderedDict[str, str] = OrderedDict()

    def choose(self, beginning: str, waiting: Mapping[str, int]) -> str:
        """One of the replicas, by their calls under way: the one that had this beginning unless it
        is `slack` calls busier than the idlest; else the idlest.

        Of equally idle ones the beginning decides, in every process alike (rendezvous hashing).
        """
        idlest = min(waiting, key=lambda name: (waiting[name], content_hash([beginning, name])))
        known = self._last.get(beginning, idlest)
        near = known in waiting and waiting[known] - waiting[idlest] < self._slack
        chosen = known if near else idlest
        self._last[beginning] = chosen
        self._last.move_to_end(beginning)
        while len(self._last) > _KEPT:
            self._last.popitem(last=False)
        return chosen
