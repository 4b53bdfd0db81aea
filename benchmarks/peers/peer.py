"""A peer while it runs: what to ask it, and how to let it come to rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.load import Target
from benchmarks.upstream import ANSWER

CHAT_BODY: Final[dict[str, Any]] = {
    "model": "mock",
    "messages": [
        {"role": "system", "content": "You answer questions on the sky in one short paragraph."},
        {
            "role": "user",
            "content": "Why is the sky blue by day and red at dusk? Explain it to somebody who "
            "has had physics at school, without formulas, and say where the colours come from.",
        },
    ],
    "temperature": 0.7,
    "max_tokens": 200,
}
EXPECT: Final = ANSWER[:40]


def _at_rest() -> None:
    """Most servers do nothing when nobody asks."""


@dataclass(frozen=True)
class Peer:
    """`name` None is ours. `settle` waits until nothing of the last round is left to be done."""

    name: str | None
    target: Target
    settle: Callable[[], None] = _at_rest


def chat_target(base_url: str, headers: dict[str, str] | None = None) -> Target:
    """Chat completions at a URL that ends with `/v1`."""
    return Target(f"{base_url}/chat/completions", headers or {}, CHAT_BODY, EXPECT)
