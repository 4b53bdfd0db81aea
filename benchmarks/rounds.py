"""Interleaved rounds: every peer in turn, again and again, so that a slow minute hits them all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Row, Unit, median
from benchmarks.load import Load, Pace, measure
from benchmarks.peers.peer import Peer

CONNECTIONS: Final = (1, 16, 64)

Key = tuple[str | None, int]  #: peer, connections


@dataclass(frozen=True)
class Effort:
    """How long a benchmark takes: rounds of `seconds` after a warm-up, repeats of slow things."""

    rounds: int
    seconds: float
    warm_up_s: float
    repeats: int
    records: int


FULL: Final = Effort(rounds=3, seconds=3, warm_up_s=1, repeats=2, records=20_000)
QUICK: Final = Effort(rounds=1, seconds=2, warm_up_s=1, repeats=1, records=5_000)

_WARM_UP: Final = Pace(connections=8, seconds=2, warm_up_s=1)
_WARM_UPS: Final = 5

Measure = tuple[str, Unit, Callable[[Load], float]]
MEASURES: Final[tuple[Measure, ...]] = (
    ("requests", "req/s", lambda load: load.requests_s),
    ("p50", "ms", lambda load: load.latency_ms(0.5)),
    ("p99", "ms", lambda load: load.latency_ms(0.99)),
    ("errors", "errors", lambda load: float(load.errors)),
)


def interleaved(peers: Sequence[Peer], effort: Effort) -> dict[Key, list[Load]]:
    """The loads of all rounds. Says each on stderr; one server is asked at a time.

    Before the first round each is asked for a while: first requests load code and open pools.
    """
    found: dict[Key, list[Load]] = {}
    for peer in peers:
        _warm_up(peer)
    for turn in range(effort.rounds):
        for connections in CONNECTIONS:
            for peer in peers:
                pace = Pace(connections, effort.seconds, effort.warm_up_s)
                load = measure(peer.target, pace)
                peer.settle()
                found.setdefault((peer.name, connections), []).append(load)
                _say(turn, peer, connections, load)
    return found


def medians(section: str, found: dict[Key, list[Load]]) -> list[Row]:
    """The median over rounds of requests/s, p50, p99 and failed requests."""
    return [
        Row(
            name=f"{section}.{name}",
            value=round(median(figure(load) for load in loads), 3),
            unit=unit,
            connections=connections,
            peer=peer,
        )
        for (peer, connections), loads in found.items()
        for name, unit, figure in MEASURES
    ]


def _warm_up(peer: Peer) -> None:
    """Raises RuntimeError when it does not come to answer."""
    for _ in range(_WARM_UPS - 1):
        try:
            measure(peer.target, _WARM_UP)
        except RuntimeError:
            continue
        break
    measure(peer.target, _WARM_UP)
    peer.settle()


def _say(turn: int, peer: Peer, connections: int, load: Load) -> None:
    failed = f", {load.errors} failed: {load.first_error[:200]}" if load.errors else ""
    print(
        f"round {turn + 1}, {connections:2} connections, {peer.name or 'dspex-ray':20}"
        f" {load.requests_s:8.0f} req/s, p50 {load.latency_ms(0.5):7.2f} ms,"
        f" p99 {load.latency_ms(0.99):7.2f} ms{failed}",
        file=sys.stderr,
        flush=True,
    )
