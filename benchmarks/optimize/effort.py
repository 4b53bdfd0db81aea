"""How much is measured: for a table, or to see whether it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Effort:
    """`rounds` of each figure, whose median counts; `seeds` of searches, the first `timed` of which
    wait for their model; `examples` of an evaluation; `runs` of a program where its overhead is
    measured; `kills` of a run."""

    rounds: int
    seeds: int
    timed: int
    examples: int
    runs: int
    kills: int


FULL: Final = Effort(rounds=3, seeds=60, timed=3, examples=500, runs=300, kills=2)
QUICK: Final = Effort(rounds=1, seeds=3, timed=1, examples=100, runs=60, kills=1)
