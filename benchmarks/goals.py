"""What the figures are to be, and whether they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Row
from benchmarks.peers import dspy_fastapi, litellm, platform, portkey


@dataclass(frozen=True)
class Goal:
    """Met when `meets` says so of every row that `chosen` picks: with `ratio`, of its ratio."""

    text: str
    chosen: Callable[[Row], bool]
    meets: Callable[[float], bool]
    ratio: bool = False

    def measured(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if self.chosen(row)]

    def is_met(self, rows: Sequence[Row]) -> bool | None:
        """None when nothing was measured. A missing ratio meets nothing."""
        found = self.measured(rows)
        if not found:
            return None
        return all(self._meets(row.ratio if self.ratio else row.value) for row in found)

    def _meets(self, figure: float | None) -> bool:
        return figure is not None and self.meets(figure)


def _against(peer: str, name: str) -> Callable[[Row], bool]:
    return lambda row: row.peer == peer and row.name == name


def _named(prefix: str, connections: int | None = None) -> Callable[[Row], bool]:
    return lambda row: (
        row.peer is None and row.name.startswith(prefix) and row.connections == connections
    )


def _at_least(least: float) -> Callable[[float], bool]:
    return lambda figure: figure >= least


def _below(limit: float) -> Callable[[float], bool]:
    return lambda figure: figure < limit


GOALS: Final = (
    Goal(
        "gateway: at least 5 times LiteLLM's requests/s",
        _against(litellm.NAME, "gateway.requests"),
        _at_least(5),
        ratio=True,
    ),
    Goal(
        "gateway: more requests/s than Portkey",
        _against(portkey.NAME, "gateway.requests"),
        lambda figure: figure > 1,
        ratio=True,
    ),
    Goal(
        "gateway: at least 60 % of the bare ingress's requests/s",
        _against(platform.BARE, "gateway.requests"),
        _at_least(0.6),
        ratio=True,
    ),
    Goal(
        "gateway: p50 added at one connection at most 2 ms",
        _named("gateway.added_p50", connections=1),
        lambda figure: figure <= 2,
    ),
    Goal(
        "programs: at least the requests/s of DSPy on FastAPI",
        _against(dspy_fastapi.NAME, "programs.requests"),
        _at_least(1),
        ratio=True,
    ),
    Goal(
        "programs: a p99 no longer than that of DSPy on FastAPI",
        _against(dspy_fastapi.NAME, "programs.p99"),
        _at_least(1),
        ratio=True,
    ),
    Goal("select_model with 20 assignments: under 50 us", _named("select_model."), _below(50)),
    Goal("signature validation: under 1 ms", _named("signature."), _below(1000)),
    Goal(
        "spool: at least 5,000 records/s into Postgres",
        _named("spool.drained_by_1"),
        _at_least(5000),
    ),
)
